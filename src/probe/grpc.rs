//! Probes by the gRPC health protocol (`grpc.health.v1.Health/Check`), in plain text or over TLS with certificates unverified.

use std::io;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::attempt::Attempt;
use super::http::USER_AGENT;
use super::tcp::authority;
use super::tls::{HTTP2, Offer, lenient_tls};
use crate::model::go_duration::GoDuration;

/// Pause between attempts to connect within a probe's timeout.
const RECONNECT: Duration = Duration::from_secs(1);
/// Largest answer that is read, bytes; the answer has one number.
const MAX_ANSWER: usize = 64 * 1024;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl ServingStatus {
    fn wire_name(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
            ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Whose health is asked for.
pub(super) struct Service<'a> {
    /// The server's host.
    pub host: &'a str,
    /// Its port.
    pub port: i32,
    /// The service's name; empty for the server's own health.
    pub name: &'a str,
    /// Whether by TLS.
    pub tls: bool,
}

/// Asks a server for the health of a service.
pub(super) async fn probe(service: &Service<'_>, timeout: Duration) -> Attempt {
    let address = match u16::try_from(service.port) {
        Ok(port) => authority(service.host, port),
        Err(_) => return Attempt::unknown(format!("invalid port number: {}", service.port)),
    };
    let shown = GoDuration::from(timeout);
    let deadline = tokio::time::Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(deadline, connect(service, &address)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            return Attempt::Failure(format!("error: failed to connect service at {address:?}: {error}"));
        }
        Err(_) => {
            let cause = "context deadline exceeded";
            return Attempt::Failure(format!("timeout: failed to connect service {address:?} within {shown}: {cause}"));
        }
    };
    let late = || Attempt::Failure(format!("timeout: health rpc did not complete within {shown}"));
    match tokio::time::timeout_at(deadline, check(channel, service.name)).await {
        Err(_) => late(),
        Ok(Ok(ServingStatus::Serving)) => Attempt::Success,
        Ok(Ok(status)) => Attempt::Failure(format!("service unhealthy (responded with {:?})", status.wire_name())),
        Ok(Err(status)) => match status.code() {
            Code::Unimplemented => Attempt::Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            )),
            Code::DeadlineExceeded => late(),
            code => Attempt::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {} desc = {}",
                code_name(code),
                status.message()
            )),
        },
    }
}

/// Connects, again and again until the caller's patience ends: a server that just comes up is no failure.
async fn connect(service: &Service<'_>, address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.user_agent(USER_AGENT)?;
    let origin = Uri::try_from(format!("https://{address}")).unwrap_or_default();
    loop {
        let connected = if service.tls {
            let (host, address) = (service.host.to_owned(), address.to_owned());
            let connect = tower::service_fn(move |_: Uri| connect_tls(host.clone(), address.clone()));
            endpoint.clone().origin(origin.clone()).connect_with_connector(connect).await
        } else {
            endpoint.connect().await
        };
        if let Ok(channel) = connected {
            return Ok(channel);
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn connect_tls(host: String, address: String) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(lenient_tls(Offer::Http2)).connect(name, stream).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Ok(TokioIo::new(stream)),
        _ => Err(io::Error::other("the server does not offer HTTP/2")),
    }
}

async fn check(channel: Channel, service: &str) -> Result<ServingStatus, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    Ok(client.unary(request, path, codec).await?.into_inner().status())
}

fn code_name(code: Code) -> String {
    match code {
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rstest::rstest;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tonic::Response;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    type HealthCodec = ProstCodec<HealthCheckResponse, HealthCheckRequest>;

    /// A health service that knows one answer; the service `slow` never gets any.
    async fn serve(tasks: &mut JoinSet<()>, answer: Result<ServingStatus, Status>) -> i32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer_on(stream, answer).await;
        });
        i32::from(port)
    }

    async fn answer_on<S>(stream: S, answer: Result<ServingStatus, Status>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let health = service_fn(move |request: http::Request<Incoming>| {
            let answer = answer.clone();
            let check = tower::service_fn(move |request: Request<HealthCheckRequest>| {
                let answer = answer.clone();
                async move {
                    if request.get_ref().service == "slow" {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Status>(Response::new(HealthCheckResponse { status: answer? as i32 }))
                }
            });
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                Ok::<_, Infallible>(tonic::server::Grpc::new(HealthCodec::default()).unary(check, request).await)
            }
        });
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), health).await;
    }

    fn service(port: i32, name: &str) -> Service<'_> {
        Service { host: "127.0.0.1", port, name, tls: false }
    }

    #[rstest]
    #[case(Ok(ServingStatus::Serving), None)]
    #[case(Ok(ServingStatus::NotServing), Some("service unhealthy (responded with \"NOT_SERVING\")"))]
    #[case(Ok(ServingStatus::Unknown), Some("service unhealthy (responded with \"UNKNOWN\")"))]
    #[case(
        Err(Status::not_found("unknown service")),
        Some("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service")
    )]
    #[case(
        Err(Status::unimplemented("not here")),
        Some("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): not here")
    )]
    #[tokio::test]
    async fn what_an_answer_says(#[case] answer: Result<ServingStatus, Status>, #[case] expected: Option<&str>) {
        let mut tasks = JoinSet::new();
        let port = serve(&mut tasks, answer).await;
        let expected = expected.map_or(Attempt::Success, |text| Attempt::Failure(text.to_owned()));
        assert_eq!(probe(&service(port, ""), TIMEOUT).await, expected);
    }

    #[tokio::test]
    async fn time_runs_out_before_or_after_the_connection() {
        let mut tasks = JoinSet::new();
        let port = serve(&mut tasks, Ok(ServingStatus::Serving)).await;
        let short = Duration::from_millis(200);
        let late = "timeout: health rpc did not complete within 200ms";
        assert_eq!(probe(&service(port, "slow"), short).await, Attempt::Failure(late.to_owned()));
        tasks.shutdown().await;
        let away =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 200ms: context deadline exceeded");
        assert_eq!(probe(&service(port, ""), short).await, Attempt::Failure(away));
    }

    #[tokio::test]
    async fn tls_is_spoken_with_whoever_offers_http2() {
        for (offered, expected) in [(&[HTTP2] as &[&[u8]], true), (&[], false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = i32::from(listener.local_addr().unwrap().port());
            let acceptor = crate::probe::tls::tests::acceptor(offered);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                answer_on(acceptor.accept(stream).await.unwrap(), Ok(ServingStatus::Serving)).await;
            });
            let answer = probe(&Service { tls: true, ..service(port, "") }, Duration::from_millis(500)).await;
            assert_eq!(answer == Attempt::Success, expected, "{answer:?}");
        }
    }
}
