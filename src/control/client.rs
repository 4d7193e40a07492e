//! The other end: asking the running service.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Request;

/// How long an exchange may take in all: 20 s. The service gives itself 15, and others may be before.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest reply that is read: 1 MiB, many times the largest report.
const MAX_REPLY: u64 = 1024 * 1024;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such file.
    #[error("there is no socket {0}; does the service run, and is this its [control] socket?")]
    NoSocket(PathBuf),
    /// A socket whose process has ended.
    #[error("nobody listens at {0}; the service does not run")]
    NobodyListens(PathBuf),
    /// The socket is there, for others.
    #[error("you may not use {0}; be root or a member of the service's group")]
    NotAllowed(PathBuf),
    /// Any other error of the connection.
    #[error("cannot talk to the service at {}: {}", .0.display(), .1)]
    Connection(PathBuf, io::Error),
    /// No reply in time.
    #[error("the service at {} did not answer within {} s", .0.display(), PATIENCE.as_secs())]
    NoAnswer(PathBuf),
    /// Something else than a reply, or half of one.
    #[error("{0} did not give a whole reply; is it the control socket of pkbridge?")]
    NotAReply(PathBuf),
    /// The service's own words.
    #[error("the service says: {0}")]
    Refused(String),
}

/// A reply line.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Ok(Value),
    Error(String),
}

/// Asks the service whose control socket is at `path`; gives the report as it came.
///
/// # Errors
/// If nobody is there, the caller may not ask, or the service refuses the request.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, AskError> {
    let reply = match timeout(PATIENCE, exchange(path, request)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => return Err(connection_error(path, error)),
        Err(_) => return Err(AskError::NoAnswer(path.to_owned())),
    };
    match serde_json::from_slice(&reply) {
        Ok(Reply::Ok(report)) => Ok(report),
        Ok(Reply::Error(text)) => Err(AskError::Refused(text)),
        Err(_) => Err(AskError::NotAReply(path.to_owned())),
    }
}

async fn exchange(path: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let line = request.to_line()? + "\n";
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(line.as_bytes()).await?;
    let mut reply = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REPLY));
    reader.read_until(b'\n', &mut reply).await?;
    Ok(reply)
}

fn connection_error(path: &Path, error: io::Error) -> AskError {
    let (path, kind) = (path.to_owned(), error.kind());
    if kind == ErrorKind::NotFound {
        AskError::NoSocket(path)
    } else if kind == ErrorKind::ConnectionRefused {
        AskError::NobodyListens(path)
    } else if kind == ErrorKind::PermissionDenied {
        AskError::NotAllowed(path)
    } else {
        AskError::Connection(path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_connect_is_told_who_may() {
        let error = ErrorKind::PermissionDenied.into();
        let told = connection_error("/run/pkbridge/control.sock".as_ref(), error).to_string();
        assert_eq!(
            told,
            "you may not use /run/pkbridge/control.sock; be root or a member of the service's group"
        );
    }
}
