use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, date_time_ymd};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::super::tests::*;
use super::super::{Link, LinkError};
use super::*;

/// What a server has seen of a client.
#[derive(Debug, PartialEq)]
struct Seen {
    name: Option<String>,
    protocol: Option<Vec<u8>>,
    handshake: HandshakeKind,
}

/// A DNS over TLS server that answers one query a connection.
async fn server(config: ServerConfig) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let (told, seen) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _) = tcp_server(move |_, stream| {
        let (acceptor, told) = (acceptor.clone(), told.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let session = stream.get_ref().1;
            let seen = Seen {
                name: session.server_name().map(str::to_owned),
                protocol: session.alpn_protocol().map(<[u8]>::to_vec),
                handshake: session.handshake_kind().unwrap(),
            };
            told.send(seen).unwrap();
            if let Some(query) = receive(&mut stream).await {
                send(&mut stream, &reply(&query)).await;
            }
        }
    })
    .await;
    (address, seen)
}

fn dot(server: SocketAddr) -> Endpoint {
    endpoint(Transport::Tls, server)
}

fn pinned(server: SocketAddr, pins: Vec<Pin>) -> Endpoint {
    Endpoint {
        pins,
        ..dot(server)
    }
}

/// What comes of one query.
async fn outcome(endpoint: Endpoint, tls: &Arc<Tls>) -> Result<(), LinkError> {
    let query = query(1, "x");
    let response = Link::new(endpoint, Arc::clone(tls), no_bootstrap())
        .ask(&query)
        .await?;
    assert_eq!(response, reply(&query));
    Ok(())
}

/// The error of a server that shows `identity`.
async fn refusal(identity: Identity, tls: &Arc<Tls>, pins: Vec<Pin>) -> String {
    let (server, _seen) = server(server_config(identity, b"dot")).await;
    let error = outcome(pinned(server, pins), tls).await.unwrap_err();
    error.to_string()
}

fn public_key_pin(certificate: &CertificateDer<'_>) -> Pin {
    let parsed = ParsedCertificate::try_from(certificate).unwrap();
    Pin::PublicKey(Sha256::digest(parsed.subject_public_key_info()).into())
}

fn certificate_pin(certificate: &CertificateDer<'_>) -> Pin {
    Pin::Certificate(Sha256::digest(signed_part(certificate).unwrap()).into())
}

/// A certificate that an authority never saw: not for the server's name, and of the year 2000.
fn self_signed() -> Identity {
    let key = new_key();
    let mut params = params(&["other.example"]);
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    (vec![certificate.der().clone()], private(&key))
}

#[tokio::test]
async fn the_server_sees_its_name_and_the_protocol_and_sessions_are_resumed() {
    let authority = Authority::new("test authority");
    let config = server_config(authority.issue(&[SERVER_NAME]), b"dot");
    let (server, mut seen) = server(config).await;
    let link = Link::new(dot(server), authority.trusted(), no_bootstrap());
    for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let query = query(1, "x");
        assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        let expected = Seen {
            name: Some(SERVER_NAME.to_owned()),
            protocol: Some(b"dot".to_vec()),
            handshake,
        };
        assert_eq!(seen.recv().await, Some(expected));
    }
}

#[tokio::test]
async fn a_server_at_an_address_sees_no_name() {
    let authority = Authority::new("test authority");
    // Many servers know nothing of ALPN.
    let mut config = server_config(authority.issue(&["127.0.0.1"]), b"");
    config.alpn_protocols.clear();
    let (server, mut seen) = server(config).await;
    let endpoint = Endpoint {
        tls_name: None,
        ..dot(server)
    };
    outcome(endpoint, &authority.trusted()).await.unwrap();
    let seen = seen.recv().await.unwrap();
    assert_eq!((seen.name, seen.protocol), (None, None));
}

#[tokio::test]
async fn tls_1_2_is_spoken() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&[SERVER_NAME]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.0, identity.1)
        .unwrap();
    let (server, _seen) = server(config).await;
    outcome(dot(server), &authority.trusted()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&["other.example", "192.0.2.1"]);
    // Clients see this: the names are nothing to them.
    let expected = "cannot connect: the certificate is not for this server";
    let refused = refusal(identity, &authority.trusted(), vec![]).await;
    assert_eq!(refused, expected);
    let identity = authority.issue(&["192.0.2.1"]);
    let refused = refusal(identity, &authority.trusted(), vec![]).await;
    assert_eq!(refused, expected);

    let (server, _seen) = server(server_config(authority.issue(&[SERVER_NAME]), b"dot")).await;
    let endpoint = Endpoint {
        tls_name: None,
        ..dot(server)
    };
    let error = outcome(endpoint, &authority.trusted()).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_log_lists_what_a_certificate_for_others_is_for() {
    let names = |presented: &[&str]| {
        let why = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from(SERVER_NAME).unwrap(),
            presented: presented.iter().map(|&name| name.to_owned()).collect(),
        };
        Refused::from(Error::InvalidCertificate(why)).names()
    };
    let dns = |name: char| format!("DnsName(\"{name}.example\")");
    let all = ['a', 'b', 'c', 'd', 'e'].map(dns);
    let all = all.each_ref().map(String::as_str);
    let address = "IpAddress(192.0.2.1)";
    for (presented, expected) in [
        (&[][..], "no name"),
        (&[address], "other addresses"),
        (&[all[0], address, all[1]], "a.example, b.example"),
        (
            &all,
            "a.example, b.example, c.example, d.example and others",
        ),
    ] {
        assert_eq!(names(presented).as_deref(), Some(expected));
    }
    let other = Error::InvalidCertificate(CertificateError::UnknownIssuer);
    assert_eq!(Refused::from(other).names(), None);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let known = Authority::new("known");
    let unknown = Authority::new("unknown");
    let expected = "cannot connect: the certificate is of an unknown authority";
    let identity = unknown.issue(&[SERVER_NAME]);
    assert_eq!(refusal(identity, &known.trusted(), vec![]).await, expected);
    // One of the same name with another key.
    let identity = Authority::new("known").issue(&[SERVER_NAME]);
    let refused = refusal(identity, &known.trusted(), vec![]).await;
    assert!(
        refused.starts_with("cannot connect: the certificate is"),
        "{refused}"
    );
    // None of the system's has signed it either.
    let identity = unknown.issue(&[SERVER_NAME]);
    let system = Arc::new(Tls::new(None).unwrap());
    assert!(!system.roots.is_empty());
    assert_eq!(refusal(identity, &system, vec![]).await, expected);
}

#[tokio::test]
async fn a_self_signed_authority_as_a_server_is_explained() {
    let authority = Authority::new("test authority");
    let key = new_key();
    let certificate = authority_params(SERVER_NAME).self_signed(&key).unwrap();
    let identity = (vec![certificate.der().clone()], private(&key));
    let refused = refusal(identity, &authority.trusted(), vec![]).await;
    assert!(refused.ends_with(": pin its key"), "{refused}");
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new("test authority");
    let issue = |change: fn(&mut CertificateParams)| {
        let mut params = params(&[SERVER_NAME]);
        change(&mut params);
        authority.issue_with(params)
    };
    let expired = issue(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let refused = refusal(expired, &authority.trusted(), vec![]).await;
    let days = refused.strip_prefix("cannot connect: the certificate has expired, ");
    let days = days.unwrap().strip_suffix(" days ago").unwrap();
    assert!(days.parse::<u32>().unwrap() > 2000, "{refused}");
    let early = issue(|params| params.not_before = date_time_ymd(4000, 1, 1));
    let refused = refusal(early, &authority.trusted(), vec![]).await;
    let expected = "cannot connect: the certificate is not valid yet, or the clock here is wrong";
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn a_pinned_key_stands_in_for_an_authority() {
    let authority = Authority::new("test authority");
    let identity = self_signed();
    let pin = public_key_pin(&identity.0[0]);
    let (server, _seen) = server(server_config(identity, b"dot")).await;
    let tls = authority.trusted();
    let pins = vec![Pin::PublicKey([7; 32]), pin];
    outcome(pinned(server, pins), &tls).await.unwrap();
    assert!(outcome(dot(server), &tls).await.is_err());
}

#[tokio::test]
async fn a_key_without_a_pin_is_refused_whoever_vouches_for_it() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&[SERVER_NAME]);
    let refused = refusal(
        identity,
        &authority.trusted(),
        vec![Pin::PublicKey([7; 32])],
    )
    .await;
    let expected = "cannot connect: the server's key has none of the pins";
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn whoever_shows_a_pinned_certificate_must_have_its_key() {
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl ResolvesServerCert for Thief {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let authority = Authority::new("test authority");
    let (chain, _) = self_signed();
    let pin = public_key_pin(&chain[0]);
    let other = rustls::crypto::ring::sign::any_supported_type(&private(&new_key())).unwrap();
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let thief = Thief(Arc::new(CertifiedKey::new(
            chain.clone(),
            Arc::clone(&other),
        )));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(thief));
        let (server, _seen) = server(config).await;
        let pins = vec![pin.clone()];
        let error = outcome(pinned(server, pins), &authority.trusted()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("BadSignature"), "{error}");
    }
}

#[tokio::test]
async fn a_pinned_certificate_must_be_in_a_valid_chain() {
    let root = Authority::new("root");
    let between = |name: &str| {
        let params = authority_params(name);
        Authority(CertifiedIssuer::signed_by(params, new_key(), &root.0).unwrap())
    };
    let (pinned_one, other_one) = (between("pinned"), between("other"));
    let pin = || vec![certificate_pin(pinned_one.0.der())];
    let show = |signer: &Authority, along: &[&Authority]| {
        let (mut chain, key) = signer.issue(&[SERVER_NAME]);
        chain.extend(along.iter().map(|authority| authority.0.der().clone()));
        (chain, key)
    };
    let tls = root.trusted();

    let good = show(&pinned_one, &[&pinned_one]);
    let of_the_leaf = vec![Pin::Certificate([7; 32]), certificate_pin(&good.0[0])];
    let (address, _seen) = server(server_config(good, b"dot")).await;
    outcome(pinned(address, pin()), &tls).await.unwrap();
    outcome(pinned(address, of_the_leaf), &tls).await.unwrap();

    let expected = "cannot connect: no certificate in the server's chain has a pin";
    let without = show(&other_one, &[&other_one]);
    assert_eq!(refusal(without, &tls, pin()).await, expected);
    // The pinned one is shown, but has nothing to do with the server's.
    let along = show(&other_one, &[&other_one, &pinned_one]);
    assert_eq!(refusal(along, &tls, pin()).await, expected);
    // It is the right one, but nobody vouches for it here.
    let unknown = show(&pinned_one, &[&pinned_one]);
    let elsewhere = Authority::new("elsewhere").trusted();
    let expected = "cannot connect: the certificate is of an unknown authority";
    assert_eq!(refusal(unknown, &elsewhere, pin()).await, expected);
}

#[tokio::test]
async fn the_authorities_of_a_file_are_the_only_ones() {
    let authority = Authority::new("test authority");
    let directory = std::env::temp_dir().join(format!("pkbridge-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let file = directory.join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (server, _seen) = server(server_config(authority.issue(&[SERVER_NAME]), b"dot")).await;
    let other = Authority::new("other");
    let both = file("both.pem", &(other.0.pem() + &authority.0.pem()));
    let tls = Arc::new(Tls::new(Some(&both)).unwrap());
    outcome(dot(server), &tls).await.unwrap();
    let one = file("one.pem", &other.0.pem());
    let tls = Arc::new(Tls::new(Some(&one)).unwrap());
    assert!(outcome(dot(server), &tls).await.is_err());

    let error = |file: &Path| Tls::new(Some(file)).unwrap_err().to_string();
    let empty = file("empty.pem", "nothing\n");
    assert_eq!(
        error(&empty),
        format!("{} has no certificates", empty.display())
    );
    let missing = directory.join("missing.pem");
    let expected = format!(
        "cannot read certificates from {}: No such",
        missing.display()
    );
    assert!(
        error(&missing).starts_with(&expected),
        "{}",
        error(&missing)
    );
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = file("broken.pem", broken);
    assert!(error(&broken).starts_with("cannot read certificates from "));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn what_can_be_no_name_of_a_server_is_an_error() {
    let authority = Authority::new("test authority");
    let endpoint = Endpoint {
        tls_name: Some("not a name".to_owned()),
        ..dot(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))
    };
    let error = outcome(endpoint, &authority.trusted()).await.unwrap_err();
    let expected = "cannot connect: \"not a name\" is no name of a server";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_handshake_that_never_ends_times_out() {
    let (server, _) = tcp_server(|_, mut stream| async move {
        receive(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let authority = Authority::new("test authority");
    let link = Link::new(dot(server), authority.trusted(), no_bootstrap());
    let asked = query(1, "x");
    let ask = link.ask(&asked);
    let pass = async {
        // Time only passes once the connection task waits for the server.
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
    };
    let (result, ()) = tokio::join!(ask, pass);
    let expected = LinkError::Connect("timed out".to_owned());
    assert_eq!(result, Err(expected));
}

#[test]
fn no_bytes_make_the_signed_part_panic() {
    let (chain, _) = self_signed();
    let whole = signed_part(&chain[0]).unwrap();
    assert!(whole.len() > 100 && whole.len() < chain[0].len());
    for length in [0, 1, 2, 3, 4, 5, 6, 7, 100] {
        assert_eq!(signed_part(&chain[0][..length]), None);
    }
    for bad in [
        &[0x30, 0x80][..],
        &[0x30, 0xff, 1],
        &[0x31, 0],
        &[0x30, 2, 4, 0],
    ] {
        assert_eq!(signed_part(bad), None);
    }
}
