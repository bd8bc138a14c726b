//! Answers in gzip, for clients that ask for it and of endpoints that the peer compresses.

use std::convert::Infallible;
use std::io::Write;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt};

/// Small enough, for the least of time.
const LEVEL: Compression = Compression::fast();

/// Whether a scraper rather has gzip than nothing, by what it says of both (RFC 9110, 12.5.3). As in the peer's library
/// (`promhttp`), what is liked as well as plain text comes as plain text, and plain text is the answer to all that cannot be met.
pub(super) fn prefers_gzip(headers: &HeaderMap) -> bool {
    let (mut plain, mut gzip) = (None::<f32>, None::<f32>);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for coding in value.to_str().unwrap_or_default().split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
            let Ok(quality @ 0.0..=1.0) = quality else { continue };
            let best = |known: Option<f32>| Some(known.map_or(quality, |known| known.max(quality)));
            if matches!(name, "identity" | "*") {
                plain = best(plain);
            }
            if matches!(name, "gzip" | "*") {
                gzip = best(gzip);
            }
        }
    }
    gzip.is_some_and(|gzip| gzip > 0.0 && plain.is_none_or(|plain| gzip > plain))
}

/// Whether a query of the node's logs wants gzip: the peer takes these words alone.
pub(super) fn is_gzip_alone(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT_ENCODING).is_some_and(|value| value == "gzip")
}

/// The same text in gzip; a thread works on it, since it may be long.
pub(super) async fn gzip(text: Bytes) -> std::io::Result<Bytes> {
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), LEVEL);
        encoder.write_all(&text)?;
        encoder.finish()
    });
    Ok(compressed.await??.into())
}

/// The same pieces in gzip, one after the other as they come.
pub(super) fn gzip_pieces(
    pieces: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let encoder = GzEncoder::new(Vec::new(), LEVEL);
    futures::stream::try_unfold((Box::pin(pieces), Some(encoder)), |(mut pieces, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        while let Some(Ok(piece)) = pieces.next().await {
            encoder.write_all(&piece)?;
            let ready = std::mem::take(encoder.get_mut());
            if !ready.is_empty() {
                return Ok(Some((Bytes::from(ready), (pieces, Some(encoder)))));
            }
        }
        let rest = encoder.finish()?;
        Ok(Some((Bytes::from(rest), (pieces, None))))
    })
}

/// Says of an answer that its body is in gzip.
pub(super) fn is_in_gzip(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures::{TryStreamExt, stream};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn asking(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn expanded(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut text).unwrap();
        text
    }

    #[rstest]
    #[case(&[], false, false)]
    #[case(&["gzip"], true, true)]
    #[case(&["gzip, deflate, br"], true, false)]
    #[case(&["deflate", "gzip"], true, false)]
    #[case(&["gzip;q=0.5, identity;q=0.4"], true, false)]
    #[case(&["gzip;q=0.5, identity"], false, false)]
    #[case(&["gzip, identity"], false, false)]
    #[case(&["*"], false, false)]
    #[case(&["gzip, *;q=0.1"], true, false)]
    #[case(&["gzip;q=0"], false, false)]
    #[case(&["gzip;q=7"], false, false)]
    #[case(&["gzip;q=nan"], false, false)]
    #[case(&["zstd"], false, false)]
    fn who_asks_for_gzip(#[case] values: &[&str], #[case] scraper: bool, #[case] log_query: bool) {
        let headers = asking(values);
        assert_eq!((prefers_gzip(&headers), is_gzip_alone(&headers)), (scraper, log_query));
    }

    proptest! {
        #[test]
        fn whatever_is_asked_there_is_an_answer(value in "[ -~]{0,40}") {
            prefers_gzip(&asking(&[&value]));
        }

        #[test]
        fn what_is_compressed_is_what_was_said(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..8),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let whole = pieces.concat();
            let stream = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece))));
            let compressed: Vec<Bytes> = runtime.block_on(gzip_pieces(stream).try_collect()).unwrap();
            prop_assert_eq!(&expanded(&compressed.concat()), &whole);
            let at_once = runtime.block_on(gzip(Bytes::from(whole.clone()))).unwrap();
            prop_assert_eq!(&expanded(&at_once), &whole);
        }
    }
}
