//! The web client's files, built by `make web` and embedded at compile time.

use std::borrow::Cow;

use duologue_transport::http::Asset;
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../web-client/dist"]
// A checkout without Node builds too; the server then says at its start that it has no page.
#[allow_missing = true]
struct Files;

/// A file by its path.
pub fn asset(path: &str) -> Option<Asset> {
    let file = Files::get(path)?;
    let content_type = content_type(path);
    Some(Asset { bytes: Cow::into_owned(file.data).into(), content_type })
}

/// The page was built in.
pub fn present() -> bool {
    Files::get("index.html").is_some()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json" | "webmanifest" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}
