//! Lets a request through to its endpoint, or not.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tracing::{debug, warn};

use super::authentication::{Authenticator, Unauthenticated};
use super::authorization::{Authorizer, verb};
use super::listener::Peer;
use super::{text, websocket_token};
use crate::model::clock;

/// The door of the HTTPS port.
pub(super) struct Guard {
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
}

impl Guard {
    /// Passes the request on if its caller may use one of the Node's subresources, tried in order.
    pub(super) async fn pass(&self, request: Request, next: Next, subresources: &[&str]) -> Response {
        let (mut parts, body) = request.into_parts();
        if let Err(refusal) = self.admit(&parts, subresources).await {
            return refusal;
        }
        // Nothing behind the door needs it.
        parts.headers.remove(AUTHORIZATION);
        websocket_token::strip(&mut parts.headers);
        next.run(Request::from_parts(parts, body)).await
    }

    async fn admit(&self, parts: &Parts, subresources: &[&str]) -> Result<(), Response> {
        let path = parts.uri.path();
        // A connection without its other end is a fault of ours, and nobody's request.
        let Some(peer) = parts.extensions.get::<Peer>() else { return Err(text::unauthorized()) };
        let user = match self.authenticator.authenticate(peer, &parts.headers, clock::now()).await {
            Ok(user) => user,
            Err(Unauthenticated::NoCredentials) => {
                debug!(client = %peer.address, path, "a caller has no credentials");
                return Err(text::unauthorized());
            }
            Err(error) => {
                warn!(client = %peer.address, path, %error, "a caller is not identified");
                return Err(text::unauthorized());
            }
        };
        let (name, verb) = (&user.name, verb(&parts.method));
        for subresource in subresources {
            match self.authorizer.allows(&user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    warn!(user = name, verb, subresource, %error, "a caller's rights cannot be found out");
                    let what = format!("user={name}, verb={verb}, resource=nodes, subresource={subresource}");
                    return Err(text::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error ({what})")));
                }
            }
        }
        let subresources = subresources.join(" ");
        debug!(user = name, verb, subresources, path, "forbidden");
        let what = format!("user={name}, verb={verb}, resource=nodes, subresource(s)=[{subresources}]");
        Err(text::text(StatusCode::FORBIDDEN, format!("Forbidden ({what})\n")))
    }
}
