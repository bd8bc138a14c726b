//! A bearer token among the protocols of a WebSocket request: browsers can set no other header there.

use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;

use super::upgrade::is_websocket;

/// What a protocol begins with that is a token, which follows in URL-safe base64 without padding.
const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Why a token among the protocols is none; the peer's words (`apiserver/pkg/authentication/request/websocket`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolTokenError {
    #[error("multiple base64.bearer.authorization tokens specified")]
    Several,
    #[error("invalid base64.bearer.authorization token encoding")]
    Encoding,
    #[error("invalid base64.bearer.authorization token")]
    Text,
    #[error("missing additional subprotocol")]
    Alone,
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// The token, if there is one. Another protocol must be there, which can be answered.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<SecretString>, ProtocolTokenError> {
    if !is_websocket(headers) {
        return Ok(None);
    }
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(PREFIX));
    let Some(encoded) = tokens.next() else { return Ok(None) };
    if tokens.next().is_some() {
        return Err(ProtocolTokenError::Several);
    }
    let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| ProtocolTokenError::Encoding)?;
    let text = String::from_utf8(decoded).map_err(|_| ProtocolTokenError::Text)?;
    if text.is_empty() {
        return Ok(None);
    }
    if protocols(headers).all(|protocol| protocol.starts_with(PREFIX)) {
        return Err(ProtocolTokenError::Alone);
    }
    Ok(Some(text.into()))
}

/// Takes the token away, so that what is behind the door does not see it.
pub(super) fn strip(headers: &mut HeaderMap) {
    if !protocols(headers).any(|protocol| protocol.starts_with(PREFIX)) {
        return;
    }
    let kept: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(PREFIX)).collect();
    match HeaderValue::from_str(&kept.join(",")) {
        Ok(value) if !kept.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
}

#[cfg(test)]
mod tests {
    use axum::http::header::{CONNECTION, UPGRADE};
    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::ExposeSecret;

    use super::*;

    fn headers(protocols: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static("websocket")),
        ]);
        for value in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
        }
        headers
    }

    proptest! {
        #[test]
        fn any_protocols_are_borne_and_no_token_is_left(
            parts in prop::collection::vec("(base64url\\.bearer\\.authorization\\.k8s\\.io\\.)?[a-zA-Z0-9_=. -]{0,12}", 0..5),
        ) {
            let mut headers = headers(&[&parts.join(",")]);
            let _ = token(&headers);
            strip(&mut headers);
            prop_assert!(!protocols(&headers).any(|protocol| protocol.starts_with(PREFIX)));
        }
    }

    #[rstest]
    #[case(&["base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io"], Ok(Some("secret")), "v4.channel.k8s.io")]
    #[case(&["a", "b,base64url.bearer.authorization.k8s.io.c2VjcmV0"], Ok(Some("secret")), "a,b")]
    #[case(&["v4.channel.k8s.io"], Ok(None), "v4.channel.k8s.io")]
    #[case(&["base64url.bearer.authorization.k8s.io.c2VjcmV0"], Err(ProtocolTokenError::Alone), "")]
    #[case(&["base64url.bearer.authorization.k8s.io.c2VjcmV0=,a"], Err(ProtocolTokenError::Encoding), "a")]
    #[case(&["base64url.bearer.authorization.k8s.io._w,a"], Err(ProtocolTokenError::Text), "a")]
    #[case(
        &["base64url.bearer.authorization.k8s.io.YQ,base64url.bearer.authorization.k8s.io.Yg,a"],
        Err(ProtocolTokenError::Several), "a"
    )]
    fn tokens_are_found_and_taken_away(
        #[case] protocols: &[&str],
        #[case] expected: Result<Option<&str>, ProtocolTokenError>,
        #[case] left: &str,
    ) {
        let mut headers = headers(protocols);
        let found = token(&headers);
        assert_eq!(found.as_ref().map(|t| t.as_ref().map(|t| t.expose_secret())).map_err(|error| *error), expected);
        strip(&mut headers);
        assert_eq!(headers.get(SEC_WEBSOCKET_PROTOCOL).map_or("", |value| value.to_str().unwrap()), left);
        headers.remove(UPGRADE);
        assert!(token(&headers).unwrap().is_none());
    }
}
