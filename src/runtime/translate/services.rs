//! Environment variables that tell a container of the services around it (`enableServiceLinks`).

use std::collections::BTreeMap;

use crate::model::service::ServiceInfo;

/// The variables that a pod of `namespace` gets: for `kubernetes` of the namespace default always, for the services of
/// its own namespace where it has service links. A pod's own `kubernetes` service wins over that of default.
pub fn service_variables(services: &[ServiceInfo], namespace: &str, service_links: bool) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &ServiceInfo> = BTreeMap::new();
    for service in services.iter().filter(|s| !s.cluster_ip.is_empty() && s.cluster_ip != "None") {
        let is_api_server = service.namespace == "default" && service.name == "kubernetes";
        if is_api_server {
            chosen.entry(&service.name).or_insert(service);
        } else if service_links && service.namespace == namespace {
            chosen.insert(&service.name, service);
        }
    }
    chosen.into_values().flat_map(variables_of).collect()
}

fn variables_of(service: &ServiceInfo) -> Vec<(String, String)> {
    let prefix = variable_name(&service.name);
    let mut variables = vec![(format!("{prefix}_SERVICE_HOST"), service.cluster_ip.clone())];
    if let Some(first) = service.ports.first() {
        variables.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in service.ports.iter().filter(|p| !p.name.is_empty()) {
        variables.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(&port.name)), port.port.to_string()));
    }
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{}", join_host_port(&service.cluster_ip, port.port));
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.push((format!("{link}_PROTO"), lower));
        variables.push((format!("{link}_PORT"), port.port.to_string()));
        variables.push((format!("{link}_ADDR"), service.cluster_ip.clone()));
        variables.push((link, url));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn join_host_port(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::ServicePortInfo;

    fn service(namespace: &str, name: &str, cluster_ip: &str, ports: &[(&str, i32, &str)]) -> ServiceInfo {
        let port = |(name, port, protocol): &(&str, i32, &str)| ServicePortInfo {
            name: (*name).into(),
            port: *port,
            protocol: (*protocol).into(),
        };
        ServiceInfo {
            namespace: namespace.into(),
            name: name.into(),
            cluster_ip: cluster_ip.into(),
            ports: ports.iter().map(port).collect(),
        }
    }

    fn lines(variables: Vec<(String, String)>) -> String {
        variables.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn all_variables_of_a_service() {
        let services = [service("ns", "my-db", "10.0.0.9", &[("sql-1", 5432, ""), ("", 53, "UDP")])];
        insta::assert_snapshot!(lines(service_variables(&services, "ns", true)), @r"
        MY_DB_SERVICE_HOST=10.0.0.9
        MY_DB_SERVICE_PORT=5432
        MY_DB_SERVICE_PORT_SQL_1=5432
        MY_DB_PORT=tcp://10.0.0.9:5432
        MY_DB_PORT_5432_TCP_PROTO=tcp
        MY_DB_PORT_5432_TCP_PORT=5432
        MY_DB_PORT_5432_TCP_ADDR=10.0.0.9
        MY_DB_PORT_5432_TCP=tcp://10.0.0.9:5432
        MY_DB_PORT_53_UDP_PROTO=udp
        MY_DB_PORT_53_UDP_PORT=53
        MY_DB_PORT_53_UDP_ADDR=10.0.0.9
        MY_DB_PORT_53_UDP=udp://10.0.0.9:53
        ");
    }

    #[test]
    fn addresses_of_version_6_stand_in_brackets() {
        let services = [service("ns", "a", "fd00::1", &[("", 80, "TCP")])];
        assert!(lines(service_variables(&services, "ns", true)).contains("A_PORT=tcp://[fd00::1]:80\n"));
    }

    #[test]
    fn which_services_count() {
        let services = [
            service("default", "kubernetes", "10.0.0.1", &[("https", 443, "TCP")]),
            service("default", "other", "10.0.0.2", &[("", 80, "TCP")]),
            service("ns", "mine", "10.0.0.3", &[("", 80, "TCP")]),
            service("ns", "headless", "None", &[("", 80, "TCP")]),
            service("ns", "external", "", &[]),
            service("elsewhere", "foreign", "10.0.0.4", &[("", 80, "TCP")]),
        ];
        let hosts = |namespace, links| -> Vec<String> {
            let variables = service_variables(&services, namespace, links);
            variables.into_iter().filter(|(name, _)| name.ends_with("_SERVICE_HOST")).map(|(_, value)| value).collect()
        };
        assert_eq!(hosts("ns", true), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(hosts("ns", false), ["10.0.0.1"]);
        assert_eq!(hosts("default", true), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(hosts("default", false), ["10.0.0.1"]);
    }

    #[test]
    fn a_namespace_may_have_its_own_kubernetes_service() {
        let mut services = vec![
            service("ns", "kubernetes", "10.0.0.7", &[("", 443, "TCP")]),
            service("default", "kubernetes", "10.0.0.1", &[("", 443, "TCP")]),
        ];
        for _ in 0..2 {
            let own = service_variables(&services, "ns", true);
            assert_eq!(own[0], ("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.7".to_owned()));
            let without_links = service_variables(&services, "ns", false);
            assert_eq!(without_links[0], ("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()));
            services.reverse();
        }
    }
}
