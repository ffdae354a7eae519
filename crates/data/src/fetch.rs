//! Downloads CIFAR-10. The data set appears in its folder complete and verified, or not at all.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use md5::{Digest, Md5};
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::Error;
use crate::file_system::{self, Lock};
use crate::readers::{archive, binary, open};

/// An archive to download, with its checksum.
///
/// # Example
///
/// ```
/// use crescendo_data::{FetchOutcome, RemoteArchive, export, fetch, shapes};
///
/// // A data set that is there already is not downloaded.
/// let folder = tempfile::tempdir().unwrap();
/// export(&shapes::generate(0, 10, 10), &folder.path().join("cifar-10-batches-bin"))?;
/// let mirror = RemoteArchive { url: "https://localhost/cifar-10-binary.tar.gz", ..RemoteArchive::CIFAR10 };
/// let outcome = fetch(folder.path(), &mirror, &mut |done, total| println!("{done} of {total}"))?;
/// let FetchOutcome::AlreadyPresent(path) = outcome else { panic!("{outcome:?}") };
/// assert!(path.ends_with("cifar-10-batches-bin"));
/// # Ok::<(), crescendo_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteArchive<'a> {
    /// Its address.
    pub url: &'a str,
    /// Its MD5 in hexadecimal, the checksum that is published with CIFAR. It detects damage, not
    /// tampering.
    pub md5: &'a str,
    /// Its size in bytes.
    pub bytes: u64,
}

impl RemoteArchive<'static> {
    /// The binary version of CIFAR-10 (Krizhevsky, 2009) at its official address. For a mirror, change
    /// the `url`.
    pub const CIFAR10: Self = RemoteArchive {
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
        bytes: 170_052_171,
    };
}

/// The outcome of [`fetch`], with the data set's folder.
///
/// See the example of [`RemoteArchive`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchOutcome {
    /// The data set was there already; nothing was downloaded.
    AlreadyPresent(PathBuf),
    /// The data set was downloaded.
    Downloaded(PathBuf),
}

/// The number of transfers in a row without a single new byte after which the download fails.
const MAX_FAILURES: u32 = 4;
/// The pause after an interrupted transfer; it doubles with each failure in a row.
const PAUSE: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time without any data from the server.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const BUFFER: usize = 1 << 16;

/// What to do if this program cannot download.
const OTHER_WAY: &str = "download it in another way and give its path with --data";

/// Downloads `archive` and unpacks it to `folder/cifar-10-batches-bin`. `progress` is called with the
/// number of bytes downloaded so far and the total.
///
/// An interrupted transfer is resumed, in the same call or in the next: the incomplete archive stays in
/// `folder` under a name that ends with `.part`. Nothing is unpacked before the checksum has been
/// verified, and existing files are not overwritten.
///
/// # Errors
/// If the folder cannot be written, the archive cannot be downloaded or is not the expected one, or if
/// `folder/cifar-10-batches-bin` exists and is not a complete data set.
pub fn fetch(
    folder: &Path,
    archive: &RemoteArchive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<FetchOutcome, Error> {
    let target = folder.join(binary::LAYOUT.folder);
    if target.exists() {
        open(&target).map_err(|error| {
            Error::Download(format!(
                "{} exists but is not a complete data set: remove it and try again ({error})",
                target.display()
            ))
        })?;
        return Ok(FetchOutcome::AlreadyPresent(target));
    }
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    let mut part = PartialDownload::open(folder.join(format!("{}.part", binary::LAYOUT.archive)))?;
    let downloaded = download(&mut part, archive, progress);
    if part.bytes == 0 {
        part.remove()?;
    }
    downloaded?;
    verify(&mut part, archive)?;
    unpack(&mut part, &target)?;
    part.remove()?;
    Ok(FetchOutcome::Downloaded(target))
}

/// The file with the part of the archive that has been downloaded so far.
struct PartialDownload {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl PartialDownload {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let failed = |source| Error::io("write", &path, source);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        // Where there are no locks, the checksum detects two concurrent downloads.
        if matches!(file_system::try_lock(&file), Ok(Lock::Taken)) {
            let problem = "is in use by another download: wait until it has finished";
            return Err(Error::invalid(&path, problem));
        }
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(PartialDownload { path, file, bytes })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| Error::io("write", &self.path, source))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(|source| Error::io("write", &self.path, source))?;
        self.bytes = 0;
        Ok(())
    }

    fn remove(&self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(|source| Error::io("remove", &self.path, source))
    }

    /// The file, positioned at its start.
    fn content(&mut self) -> Result<&File, Error> {
        self.file.rewind().map_err(|source| Error::io("read", &self.path, source))?;
        Ok(&self.file)
    }
}

/// Why a transfer failed.
enum Failure {
    /// It was interrupted; another attempt may get further.
    Interrupted(String),
    /// Another attempt would fail too.
    Permanent(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Permanent(error)
    }
}

fn download(
    part: &mut PartialDownload,
    archive: &RemoteArchive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("crescendo/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .tls_config(TlsConfig::builder().root_certs(root_certificates()?).build())
        .build();
    let agent = Agent::new_with_config(config);
    if part.bytes > archive.bytes {
        part.clear()?;
    }
    progress(part.bytes, archive.bytes);
    let mut failures = 0;
    while part.bytes < archive.bytes {
        let before = part.bytes;
        let reason = match transfer(&agent, part, archive, progress) {
            Ok(()) => break,
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Interrupted(reason)) => reason,
        };
        failures = if part.bytes > before { 0 } else { failures + 1 };
        if failures == MAX_FAILURES {
            let kept = match part.bytes {
                0 => format!("try again, or {OTHER_WAY}"),
                bytes => format!(
                    "{bytes} of {} bytes are kept in {}: try again to resume the download",
                    archive.bytes,
                    part.path.display()
                ),
            };
            return Err(Error::Download(format!(
                "cannot download {}: {reason}; {kept}",
                archive.url
            )));
        }
        thread::sleep(PAUSE * 2_u32.pow(failures));
    }
    Ok(())
}

/// Requests the missing bytes and appends them.
fn transfer(
    agent: &Agent,
    part: &mut PartialDownload,
    archive: &RemoteArchive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    let mut request = agent.get(archive.url);
    if part.bytes > 0 {
        request = request.header("Range", format!("bytes={}-", part.bytes));
    }
    let response = request.call().map_err(|error| match error {
        // What a connection that is not secure fails with.
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            cannot(archive, &insecure(&error.to_string()))
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            cannot(archive, &insecure(&error.to_string()))
        }
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => {
            Failure::Interrupted(error.to_string())
        }
        _ => cannot(archive, &format!("{error}: {OTHER_WAY}")),
    })?;

    let skip = match response.status().as_u16() {
        // The server ignores ranges and sends the whole file: skip what is there already.
        200 => part.bytes,
        206 if starts_at(&response, part.bytes) => 0,
        206 => return Err(cannot(archive, "the server sent a different range than was requested")),
        416 if part.bytes > 0 => {
            part.clear()?;
            return Err(Failure::Interrupted("the server rejected the requested range".into()));
        }
        _ => return Err(cannot(archive, &format!("the server answered {}", response.status()))),
    };
    let body = response.into_body();
    let rest = archive.bytes + skip - part.bytes;
    if let Some(length) = body.content_length()
        && length != rest
    {
        return Err(cannot(
            archive,
            &format!(
                "the server offers {length} bytes instead of {rest}, so it has a different file"
            ),
        ));
    }

    let interrupted = |error: io::Error| Failure::Interrupted(error.to_string());
    let mut body = body.into_reader().take(rest);
    io::copy(&mut body.by_ref().take(skip), &mut io::sink()).map_err(interrupted)?;
    let mut buffer = vec![0; BUFFER];
    while part.bytes < archive.bytes {
        match body.read(&mut buffer).map_err(interrupted)? {
            0 => return Err(Failure::Interrupted("the connection was closed".into())),
            read => part.append(&buffer[..read])?,
        }
        progress(part.bytes, archive.bytes);
    }
    Ok(())
}

/// The certificates that servers are trusted by: those of the system, or of the file or folder that the user names
/// in the variables that OpenSSL reads, because a company's proxy signs connections anew. On a system without any,
/// Mozilla's.
fn root_certificates() -> Result<RootCerts, Error> {
    let variable = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .find(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if cfg!(any(windows, target_os = "macos")) && variable.is_none() {
        return Ok(RootCerts::PlatformVerifier);
    }
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        let certificates = found.certs.iter();
        return Ok(certificates.map(|one| Certificate::from_der(one).to_owned()).into());
    }
    match variable {
        None => Ok(RootCerts::WebPki),
        Some(variable) => {
            let reason = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
            Err(Error::Download(format!(
                "no certificate can be read where the environment variable {variable} says{reason}: let \
                 it name a PEM file, or unset it"
            )))
        }
    }
}

/// What is wrong with a connection that cannot be made secure, and what to do.
fn insecure(error: &str) -> String {
    let problem = match error {
        error if error.contains("UnknownIssuer") => {
            "its certificate is signed by nobody that this system trusts"
        }
        error if error.contains("NotValidForName") => "its certificate is another server's",
        error if error.contains("Expired") => {
            "its certificate has expired, or this computer's clock is wrong"
        }
        error => error,
    };
    format!(
        "the connection to the server is not secure ({problem}): behind a proxy that inspects connections, set \
         the environment variable SSL_CERT_FILE to a PEM file with the proxy's certificate; or {OTHER_WAY}"
    )
}

fn cannot(archive: &RemoteArchive<'_>, reason: &str) -> Failure {
    Failure::Permanent(Error::Download(format!("cannot download {}: {reason}", archive.url)))
}

/// Whether a partial response starts at byte `start`.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get("Content-Range").and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Compares the checksum, and removes the file if it differs.
fn verify(part: &mut PartialDownload, archive: &RemoteArchive<'_>) -> Result<(), Error> {
    let md5 = md5(part.content()?).map_err(|source| Error::io("read", &part.path, source))?;
    if md5 == archive.md5 {
        return Ok(());
    }
    part.remove()?;
    Err(Error::Download(format!(
        "the download from {} was damaged (its MD5 is {md5} instead of {}) and has been removed: try \
         again",
        archive.url, archive.md5
    )))
}

fn md5(mut content: impl Read) -> io::Result<String> {
    let mut hash = Md5::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Unpacks the archive to a temporary folder next to `target` and renames that when it is complete.
fn unpack(part: &mut PartialDownload, target: &Path) -> Result<(), Error> {
    let temporary = target.with_extension("part");
    // An interrupted run may have left it.
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(|source| Error::io("remove", &temporary, source))?;
    }
    unpack_into(&temporary, part).inspect_err(|_| drop(fs::remove_dir_all(&temporary)))?;
    fs::rename(&temporary, target).map_err(|source| Error::io("create", target, source))?;
    target.parent().map_or(Ok(()), sync_folder)
}

fn unpack_into(folder: &Path, part: &mut PartialDownload) -> Result<(), Error> {
    fs::create_dir(folder).map_err(|source| Error::io("create", folder, source))?;
    let archive = part.path.clone();
    archive::each_file(&archive, part.content()?, |_, name, bytes| {
        let path = folder.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|source| Error::io("write", &path, source))
    })?;
    open(folder)?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    // Where a folder cannot be synced, the checksum has been verified all the same.
    let synced = file_system::sync_folder(folder);
    synced.map(drop).map_err(|source| Error::io("write", folder, source))
}
