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
/// The page for telephones, which the demo's home links to. It is there only when somebody has built it.
const MOBILE_PAGE: &str = "mobile/index.html";
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
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let mut router = Router::new().nest_service("/static", ServeDir::new(&self.dir));
        for (address, file) in PAGES {
            router = router.route_service(address, ServeFile::new(self.dir.join(file)));
        }
        let leads = |to: &'static str| get(move || async move { Redirect::to(to) });
        for address in ABSENT {
            router = router.route(address, leads("/"));
        }
        router = if self.dir.join(MOBILE_PAGE).is_file() {
            // The page names its files relative to itself.
            let files = ServeDir::new(&self.dir);
            router
                .route("/mobile", leads("/mobile/"))
                .route_service("/mobile/", files.clone())
                .route_service("/mobile/{*file}", files)
        } else {
            router.route("/mobile", leads("/")).route("/mobile/", leads("/"))
        };
        router
            .route("/mobile-omni", leads("/mobile-omni/"))
            .layer(set(header::CONTENT_SECURITY_POLICY, POLICY))
            .layer(set(header::CACHE_CONTROL, "no-cache"))
    }
}

fn set(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    /// A checkout that holds `files`, each with its own name as content.
    fn checkout(files: &[&str]) -> (tempfile::TempDir, StaticPages) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            std::fs::write(path, file).expect("it is written");
        }
        let pages = StaticPages::new(folder.path()).expect("the demo's folder");
        (folder, pages)
    }

    /// The answer to `GET path`: its status, where it leads, its body.
    async fn fetch(pages: &StaticPages, path: &str) -> (StatusCode, Option<String>, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = pages.router::<()>().oneshot(request).await.expect("an answer");
        let to = response.headers().get(header::LOCATION).map(|to| to.to_str().expect("text").to_owned());
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1024).await.expect("a short body");
        (status, to, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[test]
    fn another_folder_is_refused_by_name() {
        let error = StaticPages::new(Path::new(env!("CARGO_MANIFEST_DIR"))).expect_err("no pages here").to_string();
        assert!(error.contains("OpenBMB/MiniCPM-o-Demo"), "{error}");
        assert!(StaticPages::new(Path::new("/no/such/folder")).is_err());
    }

    #[tokio::test]
    async fn pages_and_their_files_stand_where_the_demo_has_them() {
        let (_folder, pages) = checkout(&[AUDIO_PAGE, "index.html", "shared/i18n.js", "mobile-omni/index.html"]);
        for (path, file) in
            [("/", "index.html"), ("/audio_duplex", AUDIO_PAGE), ("/static/shared/i18n.js", "shared/i18n.js")]
        {
            assert_eq!(fetch(&pages, path).await, (StatusCode::OK, None, file.to_owned()), "{path}");
        }
        assert_eq!(fetch(&pages, "/half_duplex").await.1.as_deref(), Some("/"));
        assert_eq!(fetch(&pages, "/mobile-omni").await.1.as_deref(), Some("/mobile-omni/"));
        assert_eq!(fetch(&pages, "/static/../Cargo.toml").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_page_for_telephones_is_served_where_it_was_built_and_leads_home_elsewhere() {
        let (_folder, pages) = checkout(&[AUDIO_PAGE]);
        for path in ["/mobile", "/mobile/"] {
            assert_eq!(fetch(&pages, path).await.1.as_deref(), Some("/"), "{path}");
        }
        let (_folder, pages) = checkout(&[AUDIO_PAGE, MOBILE_PAGE, "mobile/assets/app.js"]);
        assert_eq!(fetch(&pages, "/mobile").await.1.as_deref(), Some("/mobile/"));
        for (path, file) in [("/mobile/", MOBILE_PAGE), ("/mobile/assets/app.js", "mobile/assets/app.js")] {
            assert_eq!(fetch(&pages, path).await, (StatusCode::OK, None, file.to_owned()), "{path}");
        }
    }
}
