//! The response to a scrape, which many clients may share.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::{task, time};

use super::SiteState;

/// Metrics that were rendered for one or more scrapes.
pub(super) struct Rendered {
    begun: time::Instant,
    kind: &'static str,
    text: String,
}

/// The metrics that were rendered last, kept for scrapes that wait. One scrape renders at a time.
pub(super) type LastRendered = Arc<Mutex<Option<Arc<Rendered>>>>;

/// The text of a response.
struct Text(Arc<Rendered>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

/// Scrapes that wait for each other share the metrics that are rendered after all of them came: many
/// clients then cost as much as two.
pub(super) async fn metrics(
    State(site): SiteState,
    Extension(last): Extension<LastRendered>,
) -> Response {
    let asked = time::Instant::now();
    // A client that goes away leaves the queue.
    let mut last = last.lock_owned().await;
    let shared = last.clone().filter(|rendered| rendered.begun >= asked);
    let rendered = if let Some(shared) = shared {
        Ok(shared)
    } else {
        let is_slow = site.metrics_are_slow();
        let mut render = move || {
            let begun = time::Instant::now();
            let (kind, text) = site.metrics()?;
            let rendered = Arc::new(Rendered { begun, kind, text });
            *last = Some(Arc::clone(&rendered));
            Ok(rendered)
        };
        if is_slow {
            let rendered = task::spawn_blocking(render).await;
            rendered.unwrap_or_else(|error| Err(error.to_string()))
        } else {
            render()
        }
    };
    match rendered {
        Ok(rendered) => {
            let kind = [(CONTENT_TYPE, rendered.kind)];
            (kind, Bytes::from_owner(Text(rendered))).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error + "\n").into_response(),
    }
}
