//! What HTTP/2 and HTTP/3 have in common: the request and what is accepted as its response (RFC 8484).

use std::net::IpAddr;

use bytes::Buf;
use hickory_proto::rr::RecordType;
use http::header::{ACCEPT, AGE, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::LinkError;
use crate::endpoint::{Endpoint, Host};
use crate::wire::{self, Layout, MAX_MESSAGE_LEN};

/// The media type of a DNS message (RFC 8484 section 6).
const DNS_MESSAGE: &str = "application/dns-message";
/// The port that a URI needs not name (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;
/// The largest header section that is taken from a server, in bytes. Some send long policies along.
pub(in crate::resolve) const MAX_HEADERS_LEN: u32 = 16 * 1024;

/// Characters of a media type that an error shows.
const MAX_SHOWN: usize = 64;

/// Where an endpoint is asked.
pub(super) fn uri(endpoint: &Endpoint, path: &str) -> Result<Uri, LinkError> {
    let uri = Uri::builder()
        .scheme("https")
        .authority(authority(endpoint))
        .path_and_query(path)
        .build();
    uri.map_err(|error| LinkError::Connect(error.to_string()))
}

/// What the certificate is for, and the port if it is not that of HTTPS: some servers refuse any other
/// `:authority` (RFC 9110 section 7.4).
pub(in crate::resolve) fn authority(endpoint: &Endpoint) -> String {
    let bracketed = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let host = match (&endpoint.tls_name, &endpoint.host) {
        (Some(name), _) | (None, Host::Name(name)) => match name.parse() {
            Ok(address) => bracketed(&address),
            Err(_) => name.clone(),
        },
        (None, Host::Address(address)) => bracketed(address),
    };
    match endpoint.port {
        HTTPS_PORT => host,
        port => format!("{host}:{port}"),
    }
}

/// A request whose body is a query of so many bytes. It says nothing of who asks: RFC 8484 section
/// 8.2.
pub(super) fn request(uri: &Uri, length: usize) -> Result<Request<()>, LinkError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.clone())
        .header(ACCEPT, DNS_MESSAGE)
        .header(CONTENT_TYPE, DNS_MESSAGE)
        .header(CONTENT_LENGTH, length)
        .body(());
    request.map_err(|error| LinkError::Answer(error.to_string()))
}

/// Whether a response carries a message.
pub(super) fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), LinkError> {
    if status != StatusCode::OK {
        return Err(LinkError::Status(status.as_u16()));
    }
    let media_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let media_type = media_type.unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(DNS_MESSAGE) {
        // Clients see it as well, and servers may write what they like.
        let shown: String = essence.chars().take(MAX_SHOWN).collect();
        let text = format!("the HTTP response is {shown:?}, not {DNS_MESSAGE}");
        return Err(LinkError::Answer(text));
    }
    Ok(())
}

/// Adds a piece of the body.
pub(super) fn add(body: &mut Vec<u8>, mut piece: impl Buf) -> Result<(), LinkError> {
    if body.len() + piece.remaining() > MAX_MESSAGE_LEN {
        let text = "the HTTP response is longer than any DNS message";
        return Err(LinkError::Answer(text.to_owned()));
    }
    while piece.has_remaining() {
        let chunk = piece.chunk();
        let length = chunk.len();
        body.extend_from_slice(chunk);
        piece.advance(length);
    }
    Ok(())
}

/// Takes the time that a response has spent in the caches of HTTP from the TTLs of its message
/// (RFC 8484 section 5.1). What is no message is left as it is.
pub(super) fn account_for_age(message: &mut [u8], headers: &HeaderMap) {
    let age = age(headers);
    if age == 0 {
        return;
    }
    let Ok(layout) = Layout::read(message) else {
        return;
    };
    for record in layout.records {
        // The TTL field of OPT is none (RFC 6891 section 6.1.3).
        if record.rtype != u16::from(RecordType::OPT) {
            let ttl = wire::effective_ttl(record.ttl).saturating_sub(age);
            wire::write_at(message, record.ttl_at, &ttl.to_be_bytes());
        }
    }
}

/// The age of a response in seconds; 0 if it does not say. Of several the first counts, and what is no
/// number does not (RFC 9111 section 5.1).
fn age(headers: &HeaderMap) -> u32 {
    let value = headers.get(AGE).and_then(|value| value.to_str().ok());
    let first = value.unwrap_or_default().split(',').next();
    let digits = first.unwrap_or_default().trim();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    // Longer than any TTL.
    digits.parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_authority_of_http_is_what_the_certificate_is_for() {
        let of = |host: Host, name: Option<&str>, port| {
            authority(&Endpoint {
                host,
                tls_name: name.map(str::to_owned),
                ..Endpoint::plain(SocketAddr::from(([127, 0, 0, 1], port)))
            })
        };
        let name = || Host::Name("dns.example".to_owned());
        let address = |text: &str| Host::Address(text.parse().unwrap());
        assert_eq!(of(name(), None, 443), "dns.example");
        assert_eq!(of(name(), None, 8443), "dns.example:8443");
        assert_eq!(of(address("192.0.2.1"), None, 443), "192.0.2.1");
        assert_eq!(of(address("2001:db8::1"), None, 8443), "[2001:db8::1]:8443");
        assert_eq!(
            of(address("192.0.2.1"), Some("dns.example"), 443),
            "dns.example"
        );
    }

    fn aged(age: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AGE, age.parse().unwrap());
        headers
    }

    #[test]
    fn of_a_wrong_media_type_clients_are_told_the_beginning() {
        let refused = |media_type: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, media_type.parse().unwrap());
            let error = check(StatusCode::OK, &headers).unwrap_err();
            error.to_string()
        };
        let expected = "the HTTP response is \"text/html\", not application/dns-message";
        assert_eq!(refused("text/html; charset=utf-8"), expected);
        let long = refused(&format!("text/{}", "x".repeat(16_000)));
        assert_eq!(long, expected.replace("html", &"x".repeat(59)));
    }

    #[test]
    fn the_age_is_the_first_number_of_its_header() {
        assert_eq!(age(&HeaderMap::new()), 0);
        for (text, expected) in [
            ("250", 250),
            (" 7 , 250", 7),
            ("99999999999", u32::MAX),
            ("", 0),
            ("-5", 0),
            ("+5", 0),
            ("soon", 0),
        ] {
            assert_eq!(age(&aged(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_age_is_taken_from_every_ttl_and_the_opt_record_stays() {
        let record = |rtype: u8, ttl: u32| {
            let ttl = ttl.to_be_bytes();
            [&[0, 0, rtype, 0, 1][..], &ttl, &[0, 0]].concat()
        };
        let message = |ttls: [u32; 4]| {
            let head = vec![0, 0, 0x80, 0, 0, 0, 0, 2, 0, 1, 0, 2];
            let [first, second, authority, additional] = ttls;
            let opt = record(41, 0x8000);
            [
                head,
                record(1, first),
                record(1, second),
                record(6, authority),
                opt,
                record(1, additional),
            ]
            .concat()
        };
        let fresh = message([600, 250, 249, u32::MAX]);
        let mut old = fresh.clone();
        account_for_age(&mut old, &aged("250"));
        assert_eq!(old, message([350, 0, 0, 0]));
        let mut untold = fresh.clone();
        account_for_age(&mut untold, &HeaderMap::new());
        assert_eq!(untold, fresh);
        let mut cut = fresh[..fresh.len() - 1].to_vec();
        account_for_age(&mut cut, &aged("250"));
        assert_eq!(cut, fresh[..fresh.len() - 1]);
    }
}
