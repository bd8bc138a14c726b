//! JSON byte for byte as Go's encoder writes it: struct fields in the API's order of declaration, and with `<`, `>`, `&`
//! escaped for HTML. What the peer stores in labels and hashes is in this form.

use k8s_openapi::api::core::v1::{ContainerPort, HTTPHeader, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

/// A text as a JSON string, quotes included.
pub fn text(value: &str) -> String {
    write(&value)
}

/// A `LifecycleHandler`.
pub fn lifecycle_handler(handler: &LifecycleHandler) -> String {
    write(&Handler {
        exec: handler.exec.as_ref().map(|exec| Exec { command: exec.command.as_deref().unwrap_or_default() }),
        http_get: handler.http_get.as_ref().map(|get| HttpGet {
            path: get.path.as_deref(),
            port: &get.port,
            host: get.host.as_deref(),
            scheme: get.scheme.as_deref(),
            http_headers: get.http_headers.iter().flatten().map(Header::of).collect(),
            protocol: get.protocol.as_deref(),
        }),
        tcp_socket: handler.tcp_socket.as_ref().map(|tcp| TcpSocket { port: &tcp.port, host: tcp.host.as_deref() }),
        sleep: handler.sleep.as_ref().map(|sleep| Sleep { seconds: sleep.seconds }),
    })
}

/// A list of `ContainerPort`.
pub fn container_ports(ports: &[ContainerPort]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| Port {
            name: port.name.as_deref(),
            host_port: port.host_port.filter(|number| *number != 0),
            container_port: port.container_port,
            protocol: port.protocol.as_deref(),
            host_ip: port.host_ip.as_deref(),
        })
        .collect();
    write(&ports)
}

fn write(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them have no way to fail.
    let json = serde_json::to_string(value).unwrap_or_default();
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    // These characters occur in JSON within strings alone.
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            _ => escaped.push(c),
        }
    }
    escaped
}

fn is_absent(text: &Option<&str>) -> bool {
    text.is_none_or(str::is_empty)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Handler<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Exec<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TcpSocket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sleep: Option<Sleep>,
}

#[derive(Serialize)]
struct Exec<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    command: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet<'a> {
    #[serde(skip_serializing_if = "is_absent")]
    path: Option<&'a str>,
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "is_absent")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "is_absent")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_headers: Vec<Header<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
}

#[derive(Serialize)]
struct Header<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> Header<'a> {
    fn of(header: &'a HTTPHeader) -> Self {
        Header { name: &header.name, value: &header.value }
    }
}

#[derive(Serialize)]
struct TcpSocket<'a> {
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "is_absent")]
    host: Option<&'a str>,
}

#[derive(Serialize)]
struct Sleep {
    seconds: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(skip_serializing_if = "is_absent")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "is_absent")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "is_absent")]
    host_ip: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, SleepAction, TCPSocketAction};
    use rstest::rstest;

    use super::*;

    fn exec(command: &[&str]) -> LifecycleHandler {
        let command = Some(command.iter().map(|word| (*word).to_owned()).collect());
        LifecycleHandler { exec: Some(ExecAction { command }), ..LifecycleHandler::default() }
    }

    fn http_get(get: HTTPGetAction) -> LifecycleHandler {
        LifecycleHandler { http_get: Some(get), ..LifecycleHandler::default() }
    }

    // What json.Marshal of Go 1.26 makes of the same values.
    #[rstest]
    #[case(
        exec(&["/bin/sh", "-c", "sleep 5 && echo <done>"]),
        r#"{"exec":{"command":["/bin/sh","-c","sleep 5 \u0026\u0026 echo \u003cdone\u003e"]}}"#
    )]
    #[case(exec(&[]), r#"{"exec":{}}"#)]
    #[case(
        http_get(HTTPGetAction {
            path: Some("/stop?a=1&b=2".into()),
            port: IntOrString::Int(8080),
            host: Some("h".into()),
            scheme: Some("HTTP".into()),
            http_headers: Some(vec![HTTPHeader { name: "X".into(), value: "y".into() }]),
            ..HTTPGetAction::default()
        }),
        r#"{"httpGet":{"path":"/stop?a=1\u0026b=2","port":8080,"host":"h","scheme":"HTTP","httpHeaders":[{"name":"X","value":"y"}]}}"#
    )]
    #[case(
        http_get(HTTPGetAction { port: IntOrString::String("web".into()), ..HTTPGetAction::default() }),
        r#"{"httpGet":{"port":"web"}}"#
    )]
    #[case(
        LifecycleHandler {
            tcp_socket: Some(TCPSocketAction { host: Some("h".into()), port: IntOrString::Int(1) }),
            ..LifecycleHandler::default()
        },
        r#"{"tcpSocket":{"port":1,"host":"h"}}"#
    )]
    #[case(
        LifecycleHandler { sleep: Some(SleepAction { seconds: 5 }), ..LifecycleHandler::default() },
        r#"{"sleep":{"seconds":5}}"#
    )]
    fn handlers(#[case] handler: LifecycleHandler, #[case] expected: &str) {
        assert_eq!(lifecycle_handler(&handler), expected);
        assert_eq!(serde_json::from_str::<LifecycleHandler>(expected).unwrap().sleep, handler.sleep);
    }

    #[test]
    fn ports() {
        let ports = [
            ContainerPort {
                name: Some("web".into()),
                host_port: Some(80),
                container_port: 8080,
                protocol: Some("TCP".into()),
                host_ip: Some("10.0.0.1".into()),
            },
            ContainerPort { container_port: 53, protocol: Some("UDP".into()), ..ContainerPort::default() },
        ];
        assert_eq!(
            container_ports(&ports),
            r#"[{"name":"web","hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":"10.0.0.1"},{"containerPort":53,"protocol":"UDP"}]"#
        );
    }
}
