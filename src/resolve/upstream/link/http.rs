//! What HTTP/2 and HTTP/3 have in common: the request and what is accepted as its response (RFC 8484).

use bytes::Buf;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::LinkError;
use crate::wire::MAX_MESSAGE_LEN;

/// The media type of a DNS message (RFC 8484 section 6).
const DNS_MESSAGE: &str = "application/dns-message";
/// The largest header section that is taken from a server, in bytes. Some send long policies along.
pub(super) const MAX_HEADERS_LEN: u32 = 16 * 1024;

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
        let text = format!("the HTTP response is {media_type:?}, not {DNS_MESSAGE}");
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
