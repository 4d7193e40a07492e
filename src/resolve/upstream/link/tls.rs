//! Whom a TLS connection to an upstream trusts, and what it says when it does not.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::LinkError;
use crate::endpoint::{Endpoint, Host, Pin, Transport};

/// Names of a certificate that the log lists.
const MAX_NAMES: usize = 4;
/// The tag of a SEQUENCE in DER (X.690).
const DER_SEQUENCE: u8 = 0x30;

/// The certificate authorities that are trusted for upstreams.
pub struct Tls {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// Why the certificate authorities of a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("cannot read certificates from {file}: {reason}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system, or the parser, says.
        reason: String,
    },
    /// There is no certificate in it.
    #[error("{0} has no certificates")]
    Empty(PathBuf),
}

/// What a TLS connection to one endpoint is made with. Sessions are resumed among those who share it.
#[derive(Clone)]
pub(in crate::resolve) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    refusal: Refusal,
}

/// Why a certificate was last refused. The libraries' errors tell it in the words of programmers, and
/// QUIC's only as a text.
type Refusal = Arc<Mutex<Option<String>>>;

impl Tls {
    /// Trusts the authorities in a PEM file alone; without one those of the system, and built-in ones
    /// if it has none.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        let roots = match ca_file {
            Some(file) => roots_of(file)?,
            None => system_roots(),
        };
        Ok(Self::trusting(roots))
    }

    pub(super) fn trusting(roots: RootCertStore) -> Self {
        Self {
            roots: Arc::new(roots),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }

    /// What DNS connections to `endpoint` are made with; `None` if it is spoken with in the clear.
    pub(super) fn client(&self, endpoint: &Endpoint) -> Result<Option<TlsClient>, LinkError> {
        let (protocol, versions): (&[u8], _) = match &endpoint.transport {
            Transport::Udp | Transport::Tcp => return Ok(None),
            Transport::Tls => (b"dot", rustls::ALL_VERSIONS),
            Transport::Https { http3: false, .. } => (b"h2", rustls::ALL_VERSIONS),
            Transport::Https { http3: true, .. } => (b"h3", &[&rustls::version::TLS13][..]),
            Transport::Quic => (b"doq", &[&rustls::version::TLS13][..]),
        };
        self.client_speaking(endpoint, &[protocol], versions)
            .map(Some)
    }

    /// What connections to a web server are made with: HTTP/2, or else HTTP/1.1 (RFC 9113 section 3.2).
    pub(in crate::resolve) fn web_client(
        &self,
        endpoint: &Endpoint,
    ) -> Result<TlsClient, LinkError> {
        self.client_speaking(endpoint, &[b"h2", b"http/1.1"], rustls::ALL_VERSIONS)
    }

    fn client_speaking(
        &self,
        endpoint: &Endpoint,
        protocols: &[&[u8]],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<TlsClient, LinkError> {
        let name = match (&endpoint.tls_name, &endpoint.host) {
            (Some(name), _) | (None, Host::Name(name)) => ServerName::try_from(name.clone())
                .map_err(|_| failed(&format!("{name:?} is no name of a server")))?,
            (None, Host::Address(address)) => ServerName::from(*address),
        };
        let refusal = Refusal::default();
        let webpki =
            WebPkiServerVerifier::builder_with_provider(self.roots(), Arc::clone(&self.provider))
                .build()
                .map_err(|error| failed(&error))?;
        let verifier = Verifier {
            webpki,
            pins: endpoint.pins.clone(),
            provider: Arc::clone(&self.provider),
            refusal: Arc::clone(&refusal),
            said: Mutex::default(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(TlsClient {
            config: Arc::new(config),
            name,
            refusal,
        })
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.roots.len())
            .finish()
    }
}

impl TlsClient {
    /// The configuration for TLS over TCP.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The configuration for QUIC.
    pub(super) fn quic(&self) -> Result<Arc<QuicClientConfig>, LinkError> {
        let config = QuicClientConfig::try_from(self.config());
        config.map(Arc::new).map_err(|error| failed(&error))
    }

    /// The name that the certificate must be for.
    pub(super) fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Why a handshake has failed: what was wrong with the certificate, or else the library's error.
    pub(super) fn explain(&self, error: &dyn std::fmt::Display) -> String {
        let refusal = self.refusal.lock();
        let refusal = refusal.unwrap_or_else(PoisonError::into_inner).take();
        refusal.unwrap_or_else(|| error.to_string())
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient")
            .field("name", &self.name)
            .finish()
    }
}

fn roots_of(file: &Path) -> Result<RootCertStore, TrustError> {
    let unreadable = |reason: String| TrustError::Unreadable {
        file: file.to_owned(),
        reason,
    };
    let words = |error: pem::Error| {
        if let pem::Error::Io(error) = error {
            return unreadable(error.to_string());
        }
        unreadable(error.to_string())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(words)? {
        let added = roots.add(certificate.map_err(words)?);
        added.map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TrustError::Empty(file.to_owned()));
    }
    Ok(roots)
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems carry certificates of old that no library of today takes.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::info!("no certificate authorities on this system; the built-in ones are trusted");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Checks the certificates that a server shows: by the authorities, and by the pins.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
    refusal: Refusal,
    /// The names of a certificate for others that the log has last.
    said: Mutex<Option<String>>,
}

impl Verifier {
    /// Says in the log whose certificate was shown instead, once as long as it is the same.
    fn say(&self, name: &ServerName<'_>, why: &Refused) {
        tracing::debug!(?name, ?why, "the certificate of an upstream is refused");
        let Some(names) = why.names() else {
            return;
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() != Some(&names) {
            let server = name.to_str();
            tracing::warn!(%server, "an upstream shows a certificate that is for {names}");
            *said = Some(names);
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Refused> {
        let mut of_keys = false;
        let mut of_certificates = false;
        for pin in &self.pins {
            match pin {
                Pin::PublicKey(hash) => {
                    of_keys = true;
                    let key = ParsedCertificate::try_from(leaf)?.subject_public_key_info();
                    // RFC 7858 section 4.2: whoever has this key is the server.
                    if Sha256::digest(&key)[..] == hash[..] {
                        return Ok(());
                    }
                }
                Pin::Certificate(_) => of_certificates = true,
            }
        }
        if of_keys && !of_certificates {
            return Err(Refused::KeyNotPinned);
        }
        self.webpki
            .verify_server_cert(leaf, others, name, ocsp, now)?;
        let mut chain = std::iter::once(leaf).chain(others);
        if of_certificates && !chain.any(|link| self.is_pinned(link, leaf, others, now)) {
            return Err(Refused::ChainNotPinned);
        }
        Ok(())
    }

    /// Whether a certificate that was shown has a pin and stands between the server's own and an
    /// authority: a server could show any other's along with a chain that does not contain it.
    fn is_pinned(
        &self,
        link: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        let Some(signed) = signed_part(link) else {
            return false;
        };
        let hash: [u8; 32] = Sha256::digest(signed).into();
        if !self.pins.contains(&Pin::Certificate(hash)) {
            return false;
        }
        if link == leaf {
            return true;
        }
        let mut anchor = RootCertStore::empty();
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
            return false;
        };
        anchor.add(link.clone().into_owned()).is_ok()
            && rustls::client::verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &anchor,
                others,
                now,
                self.provider.signature_verification_algorithms.all,
            )
            .is_ok()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others, name, ocsp, now).map_err(|why| {
            self.say(name, &why);
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            *refusal = Some(why.to_string());
            match why {
                Refused::Invalid(error) => error,
                Refused::KeyNotPinned | Refused::ChainNotPinned => {
                    CertificateError::ApplicationVerificationFailure.into()
                }
            }
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Why a certificate is refused, in words for who runs the resolver. Clients see them as well, so they
/// tell no address, not what the server was taken for, and not what it is: that is in the log alone.
#[derive(Debug)]
enum Refused {
    KeyNotPinned,
    ChainNotPinned,
    Invalid(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

impl Refused {
    /// What the certificate is for, if that is not what it should be for.
    fn names(&self) -> Option<String> {
        let Self::Invalid(Error::InvalidCertificate(why)) = self else {
            return None;
        };
        let CertificateError::NotValidForNameContext { presented, .. } = why else {
            return None;
        };
        let names: Vec<&str> = presented.iter().filter_map(|name| bare(name)).collect();
        Some(match names.get(..MAX_NAMES) {
            _ if presented.is_empty() => "no name".to_owned(),
            _ if names.is_empty() => "other addresses".to_owned(),
            None => names.join(", "),
            Some(first) => format!("{} and others", first.join(", ")),
        })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = match self {
            Self::KeyNotPinned => return f.write_str("the server's key has none of the pins"),
            Self::ChainNotPinned => {
                return f.write_str("no certificate in the server's chain has a pin");
            }
            Self::Invalid(error) => error,
        };
        let Error::InvalidCertificate(why) = error else {
            return error.fmt(f);
        };
        if let CertificateError::NotValidForNameContext { .. } = why {
            return f.write_str("the certificate is not for this server");
        }
        if let CertificateError::ExpiredContext { time, not_after } = why {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            return write!(f, "the certificate has expired, {days} days ago");
        }
        let not_yet = CertificateError::NotValidYet;
        if *why == not_yet || matches!(why, CertificateError::NotValidYetContext { .. }) {
            return f.write_str("the certificate is not valid yet, or the clock here is wrong");
        }
        if *why == CertificateError::UnknownIssuer {
            return f.write_str("the certificate is of an unknown authority");
        }
        // The library has no value of its own for this, and it is what most tools make.
        if format!("{why:?}").contains("CaUsedAsEndEntity") {
            let text = "the certificate is an authority's and not a server's, which a self-signed \
                        one mostly is: pin its key";
            return f.write_str(text);
        }
        write!(f, "the certificate is not valid: {why}")
    }
}

/// The name in `DnsName("dns.example")`, as the library lists it; `None` for what is no name.
fn bare(name: &str) -> Option<&str> {
    name.strip_prefix("DnsName(\"")?.strip_suffix("\")")
}

/// What the signature of a certificate covers: the first element of the outer sequence, in DER
/// (RFC 5280 section 4.1).
fn signed_part(certificate: &[u8]) -> Option<&[u8]> {
    let (head, length) = der_sequence(certificate)?;
    let inner = certificate.get(head..head.checked_add(length)?)?;
    let (head, length) = der_sequence(inner)?;
    inner.get(..head.checked_add(length)?)
}

/// The lengths of a sequence's head and contents.
fn der_sequence(bytes: &[u8]) -> Option<(usize, usize)> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *tag != DER_SEQUENCE {
        return None;
    }
    if *first < 0x80 {
        return Some((2, usize::from(*first)));
    }
    // A certificate has 64 KiB at most in practice, and 16 MiB in TLS.
    let count = usize::from(first & 0x7f);
    let octets = rest.get(..count).filter(|_| (1..=3).contains(&count))?;
    let length = octets
        .iter()
        .fold(0_usize, |length, octet| (length << 8) | usize::from(*octet));
    Some((2 + count, length))
}

fn failed(error: &dyn std::fmt::Display) -> LinkError {
    LinkError::Connect(error.to_string())
}

#[cfg(test)]
mod tests;
