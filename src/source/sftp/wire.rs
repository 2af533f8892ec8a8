//! The packets of SFTP, version 3 (draft-ietf-secsh-filexfer-02), as far as a reader needs them.
//! Paths and names are bytes, as they are in the protocol. No IO.

use bytes::{Buf, Bytes, BytesMut};

/// The largest packet that is taken, in bytes: OpenSSH's largest, and a little.
pub(super) const MAX_PACKET: usize = 256 * 1024 + 1024;

/// The version that is spoken: OpenSSH's, and nearly every other server's.
pub(super) const VERSION: u32 = 3;

/// OpenSSH's extension that tells the server's limits.
pub(super) const LIMITS: &str = "limits@openssh.com";

const INIT: u8 = 1;
const VERSION_REPLY: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const READLINK: u8 = 19;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    Open(&'a [u8]),
    Close(&'a [u8]),
    Read(&'a [u8], u64, u32),
    Lstat(&'a [u8]),
    Stat(&'a [u8]),
    Fstat(&'a [u8]),
    Opendir(&'a [u8]),
    Readdir(&'a [u8]),
    Realpath(&'a [u8]),
    Readlink(&'a [u8]),
    Limits,
}

impl Ask<'_> {
    /// Returns the request as a packet.
    pub(super) fn packet(self, id: u32) -> Vec<u8> {
        let (kind, text) = match self {
            Ask::Open(path) => (OPEN, path),
            Ask::Close(handle) => (CLOSE, handle),
            Ask::Read(handle, ..) => (READ, handle),
            Ask::Lstat(path) => (LSTAT, path),
            Ask::Stat(path) => (STAT, path),
            Ask::Fstat(handle) => (FSTAT, handle),
            Ask::Opendir(path) => (OPENDIR, path),
            Ask::Readdir(handle) => (READDIR, handle),
            Ask::Realpath(path) => (REALPATH, path),
            Ask::Readlink(path) => (READLINK, path),
            Ask::Limits => (EXTENDED, LIMITS.as_bytes()),
        };
        let mut packet = vec![0; 4];
        packet.push(kind);
        packet.extend(id.to_be_bytes());
        packet.extend((text.len() as u32).to_be_bytes());
        packet.extend(text);
        match self {
            Ask::Open(_) => {
                /// SSH_FXF_READ.
                const FOR_READING: u32 = 1;
                packet.extend(FOR_READING.to_be_bytes());
                packet.extend(0u32.to_be_bytes());
            }
            Ask::Read(_, at, len) => {
                packet.extend(at.to_be_bytes());
                packet.extend(len.to_be_bytes());
            }
            _ => {}
        }
        finish(packet)
    }
}

/// Returns the first packet of all.
pub(super) fn init() -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.push(INIT);
    packet.extend(VERSION.to_be_bytes());
    finish(packet)
}

fn finish(mut packet: Vec<u8>) -> Vec<u8> {
    let len = (packet.len() - 4) as u32;
    if let Some(head) = packet.first_chunk_mut() {
        *head = len.to_be_bytes();
    }
    packet
}

/// What is known of a file. What the server leaves out is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attrs {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    /// Seconds since the epoch.
    pub(super) mtime: Option<u32>,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(u32, String),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<(Bytes, Attrs)>),
    Attrs(Attrs),
    Extended(Bytes),
}

/// Takes the next whole packet off what came in, without its length; nothing while it is not whole.
/// A packet that is too long is an error, with the length it claims.
pub(super) fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, usize> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*head) as usize;
    if len == 0 || len > MAX_PACKET {
        return Err(len);
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Returns the version that the server speaks, and whether it tells its limits.
pub(super) fn version(mut packet: Bytes) -> Option<(u32, bool)> {
    if packet.try_get_u8().ok()? != VERSION_REPLY {
        return None;
    }
    let version = packet.try_get_u32().ok()?;
    let mut has_limits = false;
    while !packet.is_empty() {
        let name = text(&mut packet)?;
        text(&mut packet)?;
        has_limits |= name == LIMITS.as_bytes();
    }
    Some((version, has_limits))
}

/// Returns the longest read that a server's limits allow, in bytes.
pub(super) fn limits(mut reply: Bytes) -> Option<u64> {
    let _max_packet = reply.try_get_u64().ok()?;
    reply.try_get_u64().ok()
}

/// Returns to which request a packet replies, and what; nothing where it makes no sense.
pub(super) fn reply(mut packet: Bytes) -> Option<(u32, Reply)> {
    let kind = packet.try_get_u8().ok()?;
    let id = packet.try_get_u32().ok()?;
    let reply = match kind {
        STATUS => {
            let code = packet.try_get_u32().ok()?;
            // Old servers leave the words out.
            let words = text(&mut packet).unwrap_or_default();
            Reply::Status(code, String::from_utf8_lossy(&words).into_owned())
        }
        HANDLE => Reply::Handle(text(&mut packet)?),
        DATA => Reply::Data(text(&mut packet)?),
        NAME => Reply::Names(names(&mut packet)?),
        ATTRS => Reply::Attrs(attrs(&mut packet)?),
        EXTENDED_REPLY => Reply::Extended(packet),
        _ => return None,
    };
    Some((id, reply))
}

fn names(packet: &mut Bytes) -> Option<Vec<(Bytes, Attrs)>> {
    /// The bytes of an entry whose name, line and attributes are empty.
    const LEAST: usize = 12;
    let count = packet.try_get_u32().ok()? as usize;
    if count > packet.len() / LEAST {
        return None;
    }
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let name = text(packet)?;
        // A line as `ls -l` prints it, which is for people.
        text(packet)?;
        all.push((name, attrs(packet)?));
    }
    Some(all)
}

fn attrs(packet: &mut Bytes) -> Option<Attrs> {
    let flags = packet.try_get_u32().ok()?;
    let has = |bit: u32| flags & bit != 0;
    let mut attrs = Attrs::default();
    if has(1) {
        attrs.size = Some(packet.try_get_u64().ok()?);
    }
    if has(2) {
        packet.try_get_u64().ok()?;
    }
    if has(4) {
        attrs.mode = Some(packet.try_get_u32().ok()?);
    }
    if has(8) {
        packet.try_get_u32().ok()?;
        attrs.mtime = Some(packet.try_get_u32().ok()?);
    }
    if has(0x8000_0000) {
        for _ in 0..packet.try_get_u32().ok()? {
            text(packet)?;
            text(packet)?;
        }
    }
    Some(attrs)
}

fn text(packet: &mut Bytes) -> Option<Bytes> {
    let len = packet.try_get_u32().ok()? as usize;
    (len <= packet.len()).then(|| packet.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_as_the_draft_has_them() {
        assert_eq!(init(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        let read = Ask::Read(b"h", 258, 3).packet(7);
        assert_eq!(read.len(), 4 + 1 + 4 + 5 + 8 + 4);
        assert_eq!(read[..14], [0, 0, 0, 22, 5, 0, 0, 0, 7, 0, 0, 0, 1, b'h']);
        assert_eq!(read[14..], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        let open = Ask::Open(b"/f").packet(1);
        assert_eq!(open[9..], [0, 0, 0, 2, b'/', b'f', 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn packets_are_cut_where_they_end() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, 9][..]);
        assert_eq!(split(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[8, 0, 0]);
        assert_eq!(split(&mut buffer), Ok(Some(Bytes::from_static(&[9, 8]))));
        assert_eq!(split(&mut buffer), Ok(None));
        let mut http = BytesMut::from("HTTP/1.1 400");
        assert!(split(&mut http).is_err());
        assert!(split(&mut BytesMut::from(&[0; 4][..])).is_err());
    }

    #[test]
    fn replies_are_read() {
        let mut packet = vec![ATTRS, 0, 0, 0, 5, 0, 0, 0, 13];
        packet.extend(77u64.to_be_bytes());
        packet.extend(0o100644u32.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        let want = Attrs {
            size: Some(77),
            mode: Some(0o100644),
            mtime: Some(2),
        };
        assert_eq!(reply(packet.into()), Some((5, Reply::Attrs(want))));
        let status = [STATUS, 0, 0, 0, 1, 0, 0, 0, 2];
        let status = reply(Bytes::copy_from_slice(&status));
        assert_eq!(status, Some((1, Reply::Status(2, String::new()))));
        // More names than there are bytes for.
        let names = [NAME, 0, 0, 0, 1, 255, 255, 255, 255];
        assert_eq!(reply(Bytes::copy_from_slice(&names)), None);
    }

    proptest! {
        #[test]
        fn no_packet_panics(kind in prop::sample::select(vec![1u8, 2, 101, 102, 103, 104, 105, 201]),
                            rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let packet = Bytes::from([vec![kind], rest].concat());
            version(packet.clone());
            limits(packet.clone());
            reply(packet.clone());
            let mut buffer = BytesMut::from(&packet[..]);
            while let Ok(Some(_)) = split(&mut buffer) {}
        }
    }
}
