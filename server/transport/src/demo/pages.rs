//! The demo's own pages, from a checkout of its repository that the operator has: to try its front end against this server.
//!
//! Nothing of it is part of this project. The files are served as they are; addresses are those of gateway.py.

use std::io;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Redirect;
use axum::routing::get;
use tower_http::services::{ServeDir, ServeFile};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::http::AppState;

/// The page without which nothing makes sense.
const AUDIO_PAGE: &str = "audio-duplex/audio_duplex.html";
/// Addresses of pages and their files.
const PAGES: [(&str, &str); 6] = [
    ("/", "index.html"),
    ("/audio_duplex", AUDIO_PAGE),
    ("/omni", "omni/omni.html"),
    ("/mobile-omni/", "mobile-omni/index.html"),
    ("/admin", "admin.html"),
    ("/s/{id}", "session-viewer.html"),
];
/// Pages of modes that this server has not: they lead home, as in the demo when a page is disabled.
const ABSENT: [&str; 2] = ["/turnbased", "/half_duplex"];
/// These pages are old-fashioned: scripts and styles stand in them. Other hosts stay out.
const POLICY: &str = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
                      connect-src 'self' ws: wss:; media-src 'self' blob: data: mediastream:; img-src 'self' data: blob:; \
                      worker-src 'self' blob:; frame-ancestors 'none'";

/// A folder that is not the demo's `static`.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The audio page is not there.
    #[error(
        "{path}: no {AUDIO_PAGE} in it; give the folder `static` of a checkout of OpenBMB/MiniCPM-o-Demo",
        path = path.display()
    )]
    NotTheDemo {
        /// The folder given.
        path: PathBuf,
    },
    /// The folder cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The folder given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder `static` of a checkout of the demo.
#[derive(Debug, Clone)]
pub struct StaticPages {
    dir: PathBuf,
}

impl StaticPages {
    /// # Errors
    /// [`PagesError`] for another folder.
    pub fn new(dir: &Path) -> Result<Self, PagesError> {
        let dir = dir.canonicalize().map_err(|source| PagesError::Io { path: dir.to_owned(), source })?;
        if dir.join(AUDIO_PAGE).is_file() { Ok(Self { dir }) } else { Err(PagesError::NotTheDemo { path: dir }) }
    }

    /// The demo's pages at their addresses, `/` among them, and its files under `/static`.
    pub fn router(&self) -> Router<AppState> {
        let mut router = Router::new().nest_service("/static", ServeDir::new(&self.dir));
        for (address, file) in PAGES {
            router = router.route_service(address, ServeFile::new(self.dir.join(file)));
        }
        for address in ABSENT {
            router = router.route(address, get(|| async { Redirect::to("/") }));
        }
        router
            .route("/mobile-omni", get(|| async { Redirect::to("/mobile-omni/") }))
            .layer(set(header::CONTENT_SECURITY_POLICY, POLICY))
            .layer(set(header::CACHE_CONTROL, "no-cache"))
    }
}

fn set(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_folder_is_refused_by_name() {
        let error = StaticPages::new(Path::new(env!("CARGO_MANIFEST_DIR"))).expect_err("no pages here").to_string();
        assert!(error.contains("OpenBMB/MiniCPM-o-Demo"), "{error}");
        assert!(StaticPages::new(Path::new("/no/such/folder")).is_err());
    }
}
