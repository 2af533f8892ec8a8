//! What a fuzzer throws at the parsers of S3's replies and the AWS tools' files. Never in a
//! release.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::super::ListingBuilder;
use super::super::fuzzing::{check_error, check_listing};
use super::{list, profile, reply};

/// A page of a bucket's listing, of a directory and of the root.
pub fn s3_page(data: &[u8]) {
    let Ok(page) = list::parse(data) else {
        return;
    };
    for prefix in ["", "a/", "a/b/"] {
        let mut listing = ListingBuilder::default();
        if page.add_to(prefix, &mut listing).is_ok() {
            check_listing(&listing.finish());
        }
    }
}

/// An error document, with every status that matters.
pub fn s3_error(data: &[u8]) {
    let page = String::from_utf8_lossy(data);
    for status in [200, 301, 307, 400, 401, 403, 404, 412, 416, 429, 500, 503] {
        let Ok(status) = StatusCode::from_u16(status) else {
            continue;
        };
        for (explains, anonymous) in [(true, false), (false, true)] {
            let asked = reply::Asked {
                bucket: "b",
                endpoint: "http://h",
                region: "us-east-1",
                anonymous,
                explains,
            };
            check_error(&reply::error(&asked, status, &HeaderMap::new(), &page));
        }
    }
}

/// A shared configuration file, of which nothing may come out in a message.
pub fn aws_profile(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    if let Err(error) = profile::parse_ini(text, std::path::Path::new("credentials")) {
        let said = error.to_string();
        assert!(said.len() < 200, "{said}");
    }
}
