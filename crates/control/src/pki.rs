//! The installation's certificate authority: server, hosts and endpoint clients get their certificates here.
//!
//! The CA's key and certificate live in the store as settings, so that several servers on one etcd are one
//! installation. Host keys never leave their hosts (they send a signing request).

use model::object::Setting;
use model::{HostId, Name, Object, PoolId, PrincipalId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use store::{CommitError, Store, Transaction};

use crate::core::{random, sha256_hex};
use crate::error::{Error, ErrorKind, Result};

const CA_SETTING: &str = "ca";
const DAY_MS: i64 = 86_400_000;

/// Lifetime of a host's certificate: short, since hosts renew by themselves when two thirds are over.
pub const HOST_CERTIFICATE_DAYS: i64 = 30;
/// Lifetime of the server's own certificate; a new one is made at every start and before it ends.
pub const SERVER_CERTIFICATE_DAYS: i64 = 90;
const CA_DAYS: i64 = 3650;

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Issued {
    /// Certificate.
    pub certificate_pem: String,
    /// The certificate's DER bytes.
    pub certificate_der: Vec<u8>,
    /// Private key, PKCS#8.
    pub key_pem: String,
}

/// Whose certificate it is, as its common name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A host.
    Host(HostId),
    /// A client of a pool's endpoint, whoever it is: a developer.
    Endpoint(PoolId),
    /// A principal at a pool's endpoint: it may do what its roles allow, as long as it exists.
    User(PoolId, PrincipalId),
}

impl Subject {
    fn common_name(&self) -> String {
        match self {
            Subject::Host(id) => format!("host.{id}"),
            Subject::Endpoint(pool) => format!("pool.{pool}"),
            Subject::User(pool, principal) => format!("user.{pool}.{principal}"),
        }
    }

    /// Reads the subject of a certificate that was verified against the CA.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let name = certificate
            .subject()
            .iter_common_name()
            .next()?
            .as_str()
            .ok()?;
        match name.split_once('.')? {
            ("host", id) => Some(Subject::Host(HostId::parse(id).ok()?)),
            ("pool", id) => Some(Subject::Endpoint(PoolId::parse(id).ok()?)),
            ("user", ids) => {
                let (pool, principal) = ids.split_once('.')?;
                let principal = PrincipalId::parse(principal).ok()?;
                Some(Subject::User(PoolId::parse(pool).ok()?, principal))
            }
            _ => None,
        }
    }
}

/// The CA.
pub struct Authority {
    ca_pem: String,
    ca_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the CA from the store, or makes it; of two servers that make one, the first commit wins.
    pub(crate) async fn load_or_create(store: &dyn Store, now: Timestamp) -> Result<Self> {
        if store.snapshot().setting(CA_SETTING).is_none() {
            let value = new_ca(now)?;
            let name = Name::parse(CA_SETTING).map_err(|e| internal(&e))?;
            let object = Object::Setting(Setting { name, value });
            match store.commit(Transaction::new().create(object)).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let snapshot = store.snapshot();
        let setting = snapshot
            .setting(CA_SETTING)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the installation has no CA"))?;
        Self::from_pem(&setting.value)
    }

    fn from_pem(text: &str) -> Result<Self> {
        let marker = "-----BEGIN PRIVATE KEY-----";
        let split = text
            .find(marker)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the stored CA has no key"))?;
        let (certificate, key) = text.split_at(split);
        let key = KeyPair::from_pem(key).map_err(|e| internal(&e))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(|e| internal(&e))?;
        let ca_der = pem_to_der(certificate)?;
        Ok(Self {
            ca_pem: certificate.to_owned(),
            ca_der,
            issuer,
        })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's certificate, DER.
    #[must_use]
    pub fn ca_der(&self) -> &[u8] {
        &self.ca_der
    }

    /// SHA-256 of the CA's certificate (DER), as join tokens carry it.
    #[must_use]
    pub fn ca_sha256(&self) -> String {
        sha256_hex(&self.ca_der)
    }

    /// A certificate for this server, valid for the names and addresses clients dial.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<Issued> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(|e| internal(&e))?;
        params
            .distinguished_name
            .push(DnType::CommonName, "plimsoll server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, now, SERVER_CERTIFICATE_DAYS)
    }

    /// A certificate and key for a client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue_client(&self, subject: &Subject, now: Timestamp, days: i64) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, now, days)
    }

    fn issue(&self, mut params: CertificateParams, now: Timestamp, days: i64) -> Result<Issued> {
        let key = KeyPair::generate().map_err(|e| internal(&e))?;
        set_validity(&mut params, now, days)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|e| internal(&e))?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            certificate_der: certificate.der().to_vec(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a host's request; only the public key is taken from it, nothing it claims.
    ///
    /// # Errors
    /// When the request is not one.
    pub fn sign_host(
        &self,
        csr_pem: &str,
        host: &HostId,
        now: Timestamp,
    ) -> Result<(String, Vec<u8>)> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| {
            Error::invalid("the certificate signing request is not readable").with_context(e)
        })?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(
            DnType::CommonName,
            Subject::Host(host.clone()).common_name(),
        );
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, HOST_CERTIFICATE_DAYS)?;
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(|e| internal(&e))?;
        Ok((certificate.pem(), certificate.der().to_vec()))
    }
}

fn new_ca(now: Timestamp) -> Result<String> {
    let key = KeyPair::generate().map_err(|e| internal(&e))?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "plimsoll CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, CA_DAYS)?;
    let certificate = params.self_signed(&key).map_err(|e| internal(&e))?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Valid from an hour ago, since clocks of hosts differ.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> Result<()> {
    let at = |millis: i64| {
        time::OffsetDateTime::from_unix_timestamp(millis / 1000).map_err(|e| internal(&e))
    };
    params.not_before = at(now.millis() - 3_600_000)?;
    params.not_after = at(now.millis() + days * DAY_MS)?;
    let serial = random()?;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial[..16]));
    Ok(())
}

pub(crate) fn pem_to_der(pem: &str) -> Result<Vec<u8>> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|e| internal(&e))
}

fn internal(error: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Internal,
        "a certificate could not be made or read",
    )
    .with_context(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_back_and_the_ca_survives_storage() {
        let now = Timestamp(1_700_000_000_000);
        let authority = Authority::from_pem(&new_ca(now).unwrap()).unwrap();
        for subject in [
            Subject::Host(HostId::from_bytes(&[1; 32])),
            Subject::Endpoint(PoolId::from_bytes(&[2; 32])),
            Subject::User(
                PoolId::from_bytes(&[2; 32]),
                PrincipalId::from_bytes(&[3; 32]),
            ),
        ] {
            let issued = authority.issue_client(&subject, now, 1).unwrap();
            assert_eq!(
                Subject::of_certificate(&issued.certificate_der),
                Some(subject)
            );
        }
        assert_eq!(authority.ca_sha256().len(), 64);
    }

    #[test]
    fn a_host_cannot_choose_its_own_subject() {
        let now = Timestamp(1_700_000_000_000);
        let authority = Authority::from_pem(&new_ca(now).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "host.ffffffffffffffff");
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let host = HostId::from_bytes(&[1; 32]);
        let (_, der) = authority.sign_host(&csr, &host, now).unwrap();
        assert_eq!(Subject::of_certificate(&der), Some(Subject::Host(host)));
    }
}
