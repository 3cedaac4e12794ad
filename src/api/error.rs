//! A refused request: its status, and a message that says what to do about it (RFC 9457).
//! Must not know: routes, callers.

use super::http::{self, Response};

/// A refusal: HTTP status and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub status: u16,
    pub message: String,
}

impl Denied {
    /// Any status.
    pub fn new(status: u16, message: impl Into<String>) -> Denied {
        Denied {
            status,
            message: message.into(),
        }
    }
}

/// 400: the request is wrong.
pub fn bad(message: impl Into<String>) -> Denied {
    Denied::new(400, message)
}

/// 404: the object does not exist.
pub fn missing(message: impl Into<String>) -> Denied {
    Denied::new(404, message)
}

/// 409: the current state does not allow the request.
pub fn conflict(message: impl Into<String>) -> Denied {
    Denied::new(409, message)
}

/// 503: storage cannot be read. The details go to the daemon's log only.
pub fn unreadable(problem: String) -> Denied {
    log::error!("an API call cannot be answered: {problem}");
    Denied::new(503, "history cannot be read: see the daemon's log")
}

/// The response to a refused request.
pub fn problem(status: u16, message: &str) -> Response {
    let problem = serde_json::json!({
        "type": "about:blank", "title": http::phrase(status), "status": status, "detail": message,
    });
    let mut response = Response::json(status, &problem);
    response.content_type = "application/problem+json";
    response
}
