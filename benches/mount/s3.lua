-- What nginx lacks of S3's read side: listings (both versions), 404 for directories, and ETags
-- that no client takes for a multipart upload's (nginx's own are `time-size`).

local s3 = {}
local keys, facts = {}, {} -- of each bucket: its sorted keys; of each of them: size and time
local unlisted = { jfs = true } -- buckets whose objects are known by name only
local seen = {} -- pairs of size and time, each kept once

-- Reads the index: lines of bucket, key, size and Unix time, sorted.
function s3.load(file)
    for line in io.lines(file) do
        local bucket, key, size, time = line:match("^(%S+) (%S+) (%d+) (%d+)$")
        if not keys[bucket] then
            keys[bucket], facts[bucket] = {}, {}
        end
        table.insert(keys[bucket], key)
        local fact = size .. " " .. time
        seen[fact] = seen[fact] or { size = tonumber(size), time = tonumber(time) }
        facts[bucket][key] = seen[fact]
    end
end

local function fail(status, code)
    ngx.status = status
    ngx.header["Content-Type"] = "application/xml"
    ngx.print("<?xml version=\"1.0\"?><Error><Code>" .. code .. "</Code></Error>")
    return ngx.exit(status)
end

-- Returns the index of the first of the sorted `list` that is not below `key`.
local function lower_bound(list, key)
    local low, high = 1, #list + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        if list[middle] < key then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

local function list(bucket)
    local args = ngx.req.get_uri_args()
    local function arg(name)
        return type(args[name]) == "string" and args[name] or ""
    end
    local prefix, delimiter = arg("prefix"), arg("delimiter")
    local most = math.min(tonumber(args["max-keys"]) or 1000, 1000)
    local after = arg("continuation-token")
    for _, name in ipairs({ "start-after", "marker" }) do
        after = after ~= "" and after or arg(name)
    end
    local all, count, last, truncated = keys[bucket], 0, nil, false
    local out = {}
    local at = lower_bound(all, after > prefix and after or prefix)
    while all[at] and all[at]:sub(1, #prefix) == prefix do
        local key = all[at]
        local cut = delimiter ~= "" and key:find(delimiter, #prefix + 1, true)
        local name = cut and key:sub(1, cut) or key
        if name == after then
            -- It was the last of the page before.
            at = cut and lower_bound(all, name .. "\255") or at + 1
        elseif count >= most then
            truncated = most > 0
            break
        else
            if cut then
                table.insert(out, "<CommonPrefixes><Prefix>" .. name .. "</Prefix></CommonPrefixes>")
                at = lower_bound(all, name .. "\255")
            else
                local fact = facts[bucket][key]
                table.insert(out, string.format(
                    "<Contents><Key>%s</Key><LastModified>%s</LastModified>"
                        .. "<ETag>&quot;%xx%x&quot;</ETag><Size>%d</Size>"
                        .. "<StorageClass>STANDARD</StorageClass></Contents>",
                    key, os.date("!%Y-%m-%dT%H:%M:%S.000Z", fact.time), fact.time, fact.size, fact.size))
                at = at + 1
            end
            count, last = count + 1, name
        end
    end
    ngx.header["Content-Type"] = "application/xml"
    ngx.print(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
        "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        "<Name>", bucket, "</Name><Prefix>", prefix, "</Prefix><KeyCount>", count, "</KeyCount>",
        "<MaxKeys>", most, "</MaxKeys><IsTruncated>", tostring(truncated), "</IsTruncated>",
        truncated and ("<NextContinuationToken>" .. last .. "</NextContinuationToken>"
            .. "<NextMarker>" .. last .. "</NextMarker>") or "",
        table.concat(out), "</ListBucketResult>")
    return ngx.exit(200)
end

-- Answers for an object that has no bytes: it is there to be listed and asked about.
local function shown(fact)
    ngx.header["Content-Length"] = fact.size
    ngx.header["ETag"] = string.format("\"%xx%x\"", fact.time, fact.size)
    ngx.header["Last-Modified"] = ngx.http_time(fact.time)
    if ngx.req.get_method() == "HEAD" then
        ngx.status = 200
        ngx.send_headers()
        return ngx.exit(200)
    end
    return fail(500, "InternalError")
end

-- Answers what is not the content of an object.
function s3.request()
    local bucket, key = ngx.var.uri:match("^/([^/]+)/?(.*)$")
    if unlisted[bucket] then
        return
    end
    if not bucket or not keys[bucket] then
        return fail(404, "NoSuchBucket")
    end
    if key == "" then
        return ngx.req.get_method() == "HEAD" and ngx.exit(200) or list(bucket)
    end
    if not facts[bucket][key] then
        return fail(404, "NoSuchKey")
    end
    if key:find("^many") then
        return shown(facts[bucket][key])
    end
    local wanted = ngx.req.get_headers()["If-Match"]
    if wanted then
        ngx.req.set_header("If-Match", (wanted:gsub("x", "-")))
    end
end

-- Writes nginx's ETag as the listing does.
function s3.headers()
    local etag = ngx.header["ETag"]
    if etag then
        ngx.header["ETag"] = etag:gsub("-", "x")
    end
end

local bytes, requests = 0, 0

-- Counts a reply that ended, also one that its client did not wait for.
function s3.count()
    bytes = bytes + tonumber(ngx.var.bytes_sent)
    requests = requests + 1
end

-- Answers with the bytes sent and the requests answered so far.
function s3.told()
    ngx.print(string.format("%d %d", bytes, requests))
end

return s3
