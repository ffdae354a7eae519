//! Downloads from a server whose certificate is signed by an authority of its own, as behind the proxy of a company.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};

use super::{Place, check_line, check_refusal, text};

/// A server for `localhost` that answers every request with 404. Returns its port and its authority's certificate.
fn serve() -> (u16, String) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![server.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut socket = connection.unwrap();
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut tls, &mut socket);
            // This fails if the client does not trust the server.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
            tls.send_close_notify();
            let _ = tls.complete_io(&mut socket);
        }
    });
    (port, authority.pem())
}

#[test]
fn certificates_of_ssl_cert_file_are_trusted_and_others_are_refused_with_a_remedy() {
    let place = Place::new();
    let (port, certificate) = serve();
    fs::write(place.path("company.pem"), certificate).unwrap();
    fs::write(place.path("empty.pem"), "").unwrap();
    let arguments = format!("data fetch --dir data --url https://localhost:{port}/cifar.tar.gz");
    let fetch = |variable: Option<&str>| {
        let mut command = place.command(&arguments);
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        if let Some(name) = variable {
            command.env("SSL_CERT_FILE", place.path(name));
        }
        check_refusal(&command.output().unwrap(), 1, &arguments)
    };
    let complaint = fetch(None);
    check_line(
        &complaint,
        &["not secure", "nobody that this system trusts", "SSL_CERT_FILE", "--data"],
    );
    // With the authority's certificate the server is heard.
    check_line(&fetch(Some("company.pem")), &["the server answered 404 Not Found"]);
    for name in ["empty.pem", "missing.pem"] {
        check_line(&fetch(Some(name)), &["no certificate", "SSL_CERT_FILE"]);
    }
}

#[test]
fn a_refused_connection_is_told_with_another_way() {
    let place = Place::new();
    // Nobody listens on the port that is free again.
    let port = TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
    let arguments = format!("data fetch --dir data --url http://localhost:{port}/cifar.tar.gz");
    let output = place.command(&arguments).env_remove("HTTP_PROXY").output().unwrap();
    assert!(text(&output.stderr).contains("refused"), "{}", text(&output.stderr));
    check_line(&check_refusal(&output, 1, &arguments), &["cannot download http", "--data"]);
}
