//! TLS to containers, whose certificates nobody vouches for.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Takes every certificate: a probe asks whether a server answers, not who it is (`HTTPGetAction.scheme`).
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The protocols that a client offers to a server over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2, or else HTTP/1.1.
    AnyHttp,
    /// HTTP/2 alone.
    Http2,
}

impl Offer {
    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Offer::AnyHttp => &[HTTP2, b"http/1.1"],
            Offer::Http2 => &[HTTP2],
        }
    }
}

/// The name of HTTP/2 in a handshake.
pub(super) const HTTP2: &[u8] = b"h2";

/// The TLS configuration for requests to containers: certificates are not verified, no session is kept.
pub(super) fn lenient_tls(offer: Offer) -> Arc<ClientConfig> {
    static CONFIGS: [OnceLock<Arc<ClientConfig>>; 2] = [const { OnceLock::new() }; 2];
    CONFIGS[offer as usize].get_or_init(|| make(offer)).clone()
}

fn make(offer: Offer) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyServer(provider.clone()));
    // The default versions are always those of the provider that was just made.
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = match builder {
        Ok(builder) => builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(),
        Err(_) => ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = offer.protocols().iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

#[cfg(test)]
pub(super) mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server that nobody vouches for, which knows these protocols.
    pub(in crate::probe) fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
        let key = rcgen::generate_simple_self_signed(vec!["nobody.invalid".to_owned()]).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![key.cert.der().clone()], private).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
