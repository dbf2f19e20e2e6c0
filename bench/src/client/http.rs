//! The one HTTP request of a WebRTC client.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Target;
use crate::error::BenchError;

const DOING: &str = "asking for a session over HTTP";

/// Posts JSON; status and body of the answer. HTTP/1.0, so that the answer ends with the connection.
pub(super) async fn post(target: &Target, path: &str, body: &str) -> Result<(u16, String), BenchError> {
    let failed = |error: std::io::Error| BenchError::session(DOING, format!("{}: {error}", target.endpoint));
    let authority = &target.endpoint.authority;
    let key = target.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "POST {path} HTTP/1.0\r\nhost: {authority}\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(authority).await.map_err(failed)?;
    stream.write_all((head + body).as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let parts = answer.split_once("\r\n\r\n");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (parts, status) {
        (Some((_, body)), Some(status)) => Ok((status, body.to_owned())),
        _ => Err(BenchError::session(DOING, format!("{}: the answer is no HTTP", target.endpoint))),
    }
}
