//! A real server on a free port of this machine, with a scripted backend behind it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use duologue_session::barge_in::BargeInConfig;
use duologue_transport::http::auth::{ApiKey, KeyRing};
use duologue_transport::http::origin::Origins;
use duologue_transport::http::rate::RateLimits;
use duologue_transport::http::{AppState, Assets, Settings, router, tls};
use duologue_transport::record::Shelf;
use duologue_transport::rtc::RtcConfig;
use duologue_transport::{Backend, Limits, SessionManager};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a test may want otherwise than usual.
pub struct Setup {
    /// Who may come in; whoever is on this machine when there are none.
    pub keys: Vec<ApiKey>,
    /// A place for recordings.
    pub recordings: Option<Shelf>,
    /// Connections at once.
    pub connections: usize,
    /// The web client; there is none unless it is set.
    pub assets: Assets,
}

impl Default for Setup {
    fn default() -> Self {
        Self { keys: Vec::new(), recordings: None, connections: 512, assets: |_| None }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Setup").field("recordings", &self.recordings).finish_non_exhaustive()
    }
}

/// A running server; it ends with the test.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its sessions.
    pub manager: SessionManager,
}

impl Server {
    /// Serves `backend` without keys on loopback.
    ///
    /// # Panics
    /// If this machine has no free port.
    pub async fn start(backend: impl Backend, limits: Limits) -> Self {
        Self::start_with(backend, limits, Setup::default()).await
    }

    /// The same, set up otherwise.
    ///
    /// # Panics
    /// If this machine has no free port.
    pub async fn start_with(backend: impl Backend, limits: Limits, setup: Setup) -> Self {
        let Setup { keys, recordings, connections, assets } = setup;
        let manager = SessionManager::new(Arc::new(backend), limits, BargeInConfig::default()).expect("valid rules");
        let settings = Settings {
            keys: KeyRing::new(keys),
            origins: Origins::new(&[], true).expect("no origins to read"),
            rates: RateLimits::default(),
            messages: duologue_proto::wire::Limits::default(),
            assets,
            demo_pages: None,
            webrtc: Some(RtcConfig::default()),
            recordings,
        };
        let app = router(AppState::new(manager.clone(), settings));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(tls::serve(listener, app, None, connections, Handle::new()));
        Self { address, manager }
    }

    /// A WebSocket to `path`.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn connect(&self, path: &str) -> Socket {
        Socket::open(&format!("ws://{}{path}", self.address)).await
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Panics
    /// If the server does not listen.
    pub async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    /// A request over HTTP/1.0, so that the answer ends with the connection: status and JSON body.
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.plain().await;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).await.expect("it reads");
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an answer").expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
    }

    /// Waits until all sessions are gone.
    ///
    /// # Panics
    /// If they stay.
    pub async fn idle(&self) {
        let gone = async {
            while self.manager.load().busy > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the sessions end");
    }
}

/// A client's WebSocket that speaks JSON.
#[derive(Debug)]
pub struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// A WebSocket to `url`.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn open(url: &str) -> Self {
        let (socket, _) = connect_async(url).await.expect("a WebSocket");
        Self { socket }
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends text that need not be JSON.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("the server reads");
    }

    /// Sends text to a server that may hang up before it has taken all of it; returns whether it took it.
    pub async fn try_send_text(&mut self, text: &str) -> bool {
        self.socket.send(Message::text(text)).await.is_ok()
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).await.expect("the server reads");
    }

    /// The next message; `None` when the server has closed the connection.
    ///
    /// # Panics
    /// If nothing comes, or what comes is no JSON.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            return match timeout(PATIENCE, self.socket.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => Some(serde_json::from_str(text.as_str()).expect("JSON")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => None,
            };
        }
    }

    /// Code and reason with which the server closes the connection.
    ///
    /// # Panics
    /// If it says something else first, or says no code.
    pub async fn closed(&mut self) -> (u16, String) {
        match timeout(PATIENCE, self.socket.next()).await.expect("a close in time") {
            Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("not a close with a code: {other:?}"),
        }
    }

    /// The next message of this type; others are skipped.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the connection ended before `{kind}`"));
            if message["type"] == kind {
                return message;
            }
        }
    }
}
