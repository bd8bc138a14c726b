//! A CertificateSigningRequest's way: created, or found again, and waited for.

use std::time::Duration;

use ::kube::api::{Api, PostParams};
use ::kube::{Client, ResourceExt};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::certificate::{CertificateFacts, chain_from_pem};
use super::error::CertificatesError;
use super::request::compatible;
use crate::kube::error;
use crate::kube::watch::{ObjectWatch, WatchEvent, WatchOptions};
use crate::model::{Timestamp, clock};

/// A request that the API server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Submitted {
    pub name: String,
    uid: String,
}

impl Submitted {
    pub(super) fn of(request: &CertificateSigningRequest) -> Self {
        Submitted { name: request.name_any(), uid: request.uid().unwrap_or_default() }
    }
}

/// What a request's state means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not approved, or not signed yet.
    Pending,
    /// Signed: the certificates as PEM.
    Issued(Vec<u8>),
}

/// What the state of the request that was submitted means. Pure.
pub(super) fn judge(submitted: &Submitted, request: &CertificateSigningRequest) -> Result<Verdict, CertificatesError> {
    if request.uid().unwrap_or_default() != submitted.uid {
        return Err(CertificatesError::Replaced { name: submitted.name.clone() });
    }
    let status = request.status.as_ref();
    let mut is_approved = false;
    for condition in status.and_then(|status| status.conditions.as_deref()).unwrap_or_default() {
        let reason = condition.reason.clone().unwrap_or_default();
        let message = condition.message.clone().unwrap_or_default();
        match condition.type_.as_str() {
            "Denied" => return Err(CertificatesError::Denied { reason, message }),
            "Failed" => return Err(CertificatesError::Failed { reason, message }),
            "Approved" => is_approved = true,
            _ => {}
        }
    }
    let certificate = status.and_then(|status| status.certificate.as_ref()).filter(|text| !text.0.is_empty());
    Ok(match certificate {
        Some(text) if is_approved => Verdict::Issued(text.0.clone()),
        _ => Verdict::Pending,
    })
}

/// Creates the request, or finds the one of its name again.
pub(super) async fn submit(
    client: &Client,
    wanted: &CertificateSigningRequest,
) -> Result<Submitted, CertificatesError> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let refused = |what: &'static str| move |source| CertificatesError::Api { what, source };
    match api.create(&PostParams::default(), wanted).await {
        Ok(created) => {
            tracing::info!(csr = created.name_any(), signer = wanted.spec.signer_name, "asked for a certificate");
            Ok(Submitted::of(&created))
        }
        Err(error) if error::is_already_exists(&error) && wanted.metadata.name.is_some() => {
            let name = wanted.name_any();
            let found = api.get(&name).await.map_err(refused("cannot retrieve certificate signing request"))?;
            let checked = compatible(&found, wanted).and_then(|()| unexpired(&found, clock::now()));
            checked.map_err(|message| CertificatesError::Incompatible { name: name.clone(), message })?;
            tracing::info!(csr = name, "the certificate was asked for before; that request goes on");
            Ok(Submitted::of(&found))
        }
        Err(error) => Err(refused("cannot create certificate signing request")(error)),
    }
}

/// A request that was answered long ago is of no use.
fn unexpired(request: &CertificateSigningRequest, now: Timestamp) -> Result<(), String> {
    let Some(text) = request.status.as_ref().and_then(|status| status.certificate.as_ref()) else { return Ok(()) };
    for certificate in chain_from_pem(&text.0)? {
        let end = CertificateFacts::from_der(&certificate)?.not_after;
        if now > end {
            return Err(format!("one of the certificates for the CSR has expired: {end}"));
        }
    }
    Ok(())
}

/// Waits until the request is signed. Returns the certificates as PEM.
pub(super) async fn issued(
    client: &Client,
    submitted: &Submitted,
    limit: Duration,
) -> Result<Vec<u8>, CertificatesError> {
    let late = || CertificatesError::Late { name: submitted.name.clone(), limit };
    tokio::time::timeout(limit, follow(client, submitted)).await.unwrap_or_else(|_| Err(late()))
}

async fn follow(client: &Client, submitted: &Submitted) -> Result<Vec<u8>, CertificatesError> {
    let name = &submitted.name;
    let options = WatchOptions {
        fields: Some(format!("metadata.name={name}")),
        ..WatchOptions::new(format!("certificate signing request {name}"))
    };
    let mut watch = ObjectWatch::new(Api::<CertificateSigningRequest>::all(client.clone()), options);
    let deleted = || CertificatesError::Deleted { name: name.clone() };
    loop {
        let request = match watch.next().await {
            Ok(WatchEvent::Replaced(mut requests)) => requests.pop().ok_or_else(deleted)?,
            Ok(WatchEvent::Applied(request)) => request,
            Ok(WatchEvent::Deleted(_)) => return Err(deleted()),
            // Credentials that are refused are not waited with: whoever asks has to know.
            Err(failure) if is_refusal(&failure.source) => {
                let what = "cannot watch on the certificate signing request";
                return Err(CertificatesError::Api { what, source: failure.source });
            }
            Err(_) => continue,
        };
        if let Verdict::Issued(certificate) = judge(submitted, &request)? {
            return Ok(certificate);
        }
    }
}

fn is_refusal(error: &::kube::Error) -> bool {
    error::status(error).is_some_and(|status| matches!(status.code, 401 | 403))
}

/// Whether a failed request shows a server that works: one that refuses or knows no such thing does, one that is away does not.
pub(super) fn is_server_healthy(error: &::kube::Error) -> bool {
    error::status(error).is_some_and(|status| matches!(status.code, 401 | 403 | 404))
}
