//! How many connections there may be at once.
//!
//! Owns the count: a place is held from the accepted socket to its end, through TLS and a WebSocket's whole life. Whoever
//! comes when all are taken is still let in to hear why (503), as far as a few more handles go; beyond that the socket is
//! closed unread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{AddExtension, Next};
use axum::response::Response;
use axum_server::accept::Accept;
use duologue_proto::wire::{ErrorCode, WireError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tower::Layer;

use super::{error_response, metrics};

/// Connections beyond the limit that may hear why they are refused, each for one request.
const REFUSED_AT_ONCE: usize = 64;
/// When a refused client may try again, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// Whether a connection has a place; known to every request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It has one.
    Inside,
    /// There was none left; it is let in only to hear so.
    Full,
}

/// Counts connections in front of what accepts them.
#[derive(Debug, Clone)]
pub struct Door<A> {
    inner: A,
    places: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    patience: Duration,
}

impl<A> Door<A> {
    /// A door for `connections` at once, each of which says something within `patience`.
    pub fn new(inner: A, connections: usize, patience: Duration) -> Self {
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Self { inner, places, refused: Arc::new(Semaphore::new(REFUSED_AT_ONCE)), patience }
    }

    fn enter(&self) -> Option<(OwnedSemaphorePermit, Welcome)> {
        let place = |of: &Arc<Semaphore>| of.clone().try_acquire_owned().ok();
        place(&self.places)
            .map(|place| (place, Welcome::Inside))
            .or_else(|| place(&self.refused).map(|place| (place, Welcome::Full)))
    }
}

impl<A, S> Accept<TcpStream, S> for Door<A>
where
    A: Accept<TcpStream, AddExtension<S, Welcome>>,
    A::Future: Send + 'static,
{
    type Stream = Counted<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Counted<A::Stream>, A::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Some((place, welcome)) = self.enter() else {
            metrics::connection_refused();
            return Box::pin(async { Err(io::Error::other("too many connections")) });
        };
        if welcome == Welcome::Full {
            metrics::connection_refused();
        }
        // A small message must not wait for the one before to be acknowledged, which clients put off by 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            return Box::pin(async { Err(error) });
        }
        let service = Extension(welcome).layer(service);
        let accepted = self.inner.accept(stream, service);
        let patience = self.patience;
        Box::pin(async move {
            let (stream, service) = accepted.await?;
            Ok((Counted { stream, silent: Some(Box::pin(sleep(patience))), _place: place }, service))
        })
    }
}

/// Answers requests on connections that have no place.
pub(super) async fn turn_away(request: Request, next: Next) -> Response {
    if request.extensions().get::<Welcome>() != Some(&Welcome::Full) {
        return next.run(request).await;
    }
    let error = WireError::new(ErrorCode::ServerBusy, "too many connections are open; try again in a moment");
    let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, &error);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A stream that holds its place for as long as it lives, and fails when nothing comes at first: hyper waits without a
/// limit for the bytes by which it tells the version of HTTP; its own limit for a request's head begins after them.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    silent: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.silent = None;
        } else if self.silent.as_mut().is_some_and(|silent| silent.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum_server::accept::DefaultAcceptor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_holds_its_place_and_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door::new(DefaultAcceptor, 1, Duration::from_secs(10));
        let come = async || {
            let client = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            (client, door.accept(stream, ()).await)
        };
        let (_client, first) = come().await;
        let (stream, _) = first.unwrap();
        assert!(stream.stream.nodelay().unwrap());
        assert_eq!(door.places.available_permits(), 0);
        let mut refused = Vec::new();
        for _ in 0..REFUSED_AT_ONCE {
            refused.push(come().await);
        }
        assert!(refused.iter().all(|(_, refused)| refused.is_ok()), "they may hear why");
        assert!(come().await.1.is_err(), "beyond that nobody does");
        drop(stream);
        assert_eq!(door.places.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for_and_who_has_spoken_may_be_silent() {
        let patience = Duration::from_secs(10);
        let places = Arc::new(Semaphore::new(2));
        let counted = |stream| Counted {
            stream,
            silent: Some(Box::pin(sleep(patience))),
            _place: places.clone().try_acquire_owned().expect("there are two"),
        };
        let (stream, mut client) = tokio::io::duplex(16);
        let mut visit = counted(stream);
        let begun = tokio::time::Instant::now();
        let error = visit.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, patience));

        let mut visit = counted(visit.stream);
        client.write_u8(7).await.unwrap();
        assert_eq!(visit.read_u8().await.unwrap(), 7);
        let later = tokio::time::timeout(patience * 100, visit.read_u8()).await;
        assert!(later.is_err(), "it waits on");
    }
}
