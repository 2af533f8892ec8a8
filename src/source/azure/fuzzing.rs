//! What a fuzzer throws at the parsers of Azure's replies. Never in a release.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::super::ListingBuilder;
use super::super::fuzzing::{check_error, check_listing};
use super::{list, reply};

/// A page of a container's listing, of a directory and of the root.
pub fn azure_page(data: &[u8]) {
    let Ok((page, _)) = list::parse(data) else {
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
pub fn azure_error(data: &[u8]) {
    let page = String::from_utf8_lossy(data);
    for status in [200, 307, 400, 401, 403, 404, 409, 412, 416, 429, 500, 503] {
        let Ok(status) = StatusCode::from_u16(status) else {
            continue;
        };
        for (explains, anonymous) in [(true, false), (false, true)] {
            let asked = reply::Asked {
                container: "c",
                endpoint: "http://h",
                anonymous,
                explains,
                expired: None,
            };
            check_error(&reply::error(&asked, status, &HeaderMap::new(), &page));
        }
    }
}
