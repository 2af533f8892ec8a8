//! What a fuzzer throws at the parsers of Google's replies. Never in a release.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::super::ListingBuilder;
use super::super::fuzzing::{check_error, check_listing};
use super::{list, reply};

/// A page of a bucket's listing, of a directory and of the root; or one object.
pub fn gcs_page(data: &[u8]) {
    let _ = list::parse_object(data, "a");
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
pub fn gcs_error(data: &[u8]) {
    let page = String::from_utf8_lossy(data);
    for status in [200, 307, 400, 401, 403, 404, 408, 412, 416, 429, 500, 503] {
        let Ok(status) = StatusCode::from_u16(status) else {
            continue;
        };
        for anonymous in [false, true] {
            let asked = reply::Asked {
                bucket: "b",
                endpoint: "http://h",
                anonymous,
            };
            check_error(&reply::error(&asked, status, &HeaderMap::new(), &page));
        }
    }
}
