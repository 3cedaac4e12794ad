//! A route, and a request on its way through the route's handler.
//! Must not know: which routes there are, how the engine decides.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::auth::{Caller, Visitor};
use super::error::{Denied, bad, conflict, missing, unreadable};
use super::http::Response;
use super::origin::bearer;
use super::query::Query;
use super::shared::Shared;
use super::views;
use crate::config::Role;
use crate::engine::board::{Board, RunBoard};
use crate::engine::effect::{Done, Refusal};
use crate::engine::event::Ask;

/// A handler's answer.
pub type Answered = Result<Response, Denied>;

/// One path and method.
pub struct Route {
    pub method: &'static str,
    /// A part in braces stands for any text.
    pub path: &'static str,
    pub needs: Needs,
    pub shape: Shape,
    pub handler: fn(&Call) -> Answered,
}

/// What it takes to use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the response discloses nothing.
    Nothing,
    /// A page of the web UI that discloses nothing; callers without read access are redirected to the login page.
    Page,
    Role(Role),
}

/// What refusals of a route look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// RFC 9457.
    #[default]
    Problem,
    /// As the Python version has them.
    Old,
}

/// A request on its way through a handler.
pub struct Call<'a> {
    pub shared: &'a Arc<Shared>,
    pub visitor: &'a Visitor,
    pub caller: &'a Caller,
    pub board: Arc<Board>,
    /// The texts in place of the path's braces, in order.
    pub parts: Vec<String>,
    pub query: Query,
}

/// A route of the API: refusals are RFC 9457.
pub const fn route(
    method: &'static str,
    path: &'static str,
    needs: Needs,
    handler: fn(&Call) -> Answered,
) -> Route {
    Route {
        method,
        path,
        needs,
        shape: Shape::Problem,
        handler,
    }
}

impl Call<'_> {
    /// The request's body. Only as JSON: a form on a web page cannot send that.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Denied> {
        let request = &self.visitor.request;
        let content_type = request.header("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(Denied::new(
                415,
                "the request needs 'Content-Type: application/json'",
            ));
        }
        let bytes = match request.body.as_slice() {
            [] => b"{}",
            bytes => bytes,
        };
        // serde takes an array for a struct, field by field: nobody means that
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("the request body is not a JSON object"));
        }
        serde_json::from_slice(bytes).map_err(|problem| bad(format!("invalid request body: {problem}")))
    }

    /// Checks that the body, if there is one, is an empty JSON object or one whose fields mean nothing.
    pub fn no_body(&self) -> Result<(), Denied> {
        self.body::<serde_json::Map<String, serde_json::Value>>()
            .map(drop)
    }

    /// Sends a request to the engine in the caller's name, and waits for the answer.
    pub fn ask(&self, ask: Ask) -> Result<Done, Denied> {
        let answer = self.shared.requests.ask(ask, self.caller.who.clone());
        answer.map_err(|refusal| denied(refusal, &self.board))
    }

    /// The caller's identity and role, and whether a login could change them.
    pub fn you(&self) -> Value {
        let has_session = self.caller.token.is_some() && bearer(&self.visitor.request).is_none();
        json!({
            "who": self.caller.who, "role": views::role(self.caller.role), "session": has_session,
            "login": !self.board.config.settings.api_tokens.is_empty(),
        })
    }

    /// A run with its machines: from the board, or from history.
    pub fn run(&self, instance: &str) -> Result<Arc<RunBoard>, Denied> {
        if let Some(run) = self.board.run(instance) {
            return Ok(run.clone());
        }
        let stored = self.shared.reader.lock().run(instance).map_err(unreadable)?;
        let Some(stored) = stored else {
            return Err(missing(format!("there is no such run as '{instance}'")));
        };
        Ok(Arc::new(RunBoard::from(stored)))
    }
}

/// The engine's refusal as HTTP tells it.
pub fn denied(refusal: Refusal, board: &Board) -> Denied {
    match refusal {
        Refusal::UnknownJob { job } => missing(views::no_such_job(board, &job)),
        Refusal::Conflict(why) => conflict(why),
        Refusal::Invalid(why) => bad(why),
        Refusal::Unavailable(why) => Denied::new(503, why),
    }
}
