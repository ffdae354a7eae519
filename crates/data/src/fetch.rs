//! Downloads CIFAR-10, so that what is put in place is complete and right or is not there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use md5::{Digest, Md5};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::Error;
use crate::readers::{archive, binary, open};

/// An archive to download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Its MD5, in hexadecimal: it is how the archive is published, and guards against
    /// damage, not malice.
    pub md5: &'a str,
    /// How large it is.
    pub bytes: u64,
}

impl Archive<'static> {
    /// The binary version where it is published. A mirror is the same with another `url`.
    pub const CIFAR10: Self = Archive {
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
        bytes: 170_052_171,
    };
}

/// What [`fetch`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing: the set was already in this folder.
    Already(PathBuf),
    /// Downloaded it into this folder.
    New(PathBuf),
}

/// How often in a row a transfer may break without a single new byte.
const TRIES: u32 = 4;
/// How long to wait after a transfer that broke; twice as long for each such in a row.
const PAUSE: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may be silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
const BUFFER: usize = 1 << 16;

/// Downloads `archive` and unpacks it to `folder/cifar-10-batches-bin`. `progress` is told how
/// many bytes of how many there are.
///
/// A transfer that breaks is resumed, in the same call or in the next: until the archive is
/// complete it is kept in `folder` with `.part` at the end of its name. Nothing is put in place
/// before its checksum is known to be right, and nothing in place is overwritten.
///
/// # Errors
/// If the folder cannot be written, the archive cannot be had or is not the one expected, or if
/// something that is not the set is in its place.
pub fn fetch(
    folder: &Path,
    archive: &Archive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Fetched, Error> {
    let place = folder.join(binary::LAYOUT.folder);
    if place.exists() {
        open(&place).map_err(|error| {
            Error::Download(format!(
                "{} is in the way of the download, but is not the complete set: remove it and \
                 try again ({error})",
                place.display()
            ))
        })?;
        return Ok(Fetched::Already(place));
    }
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    let mut part = Part::open(folder.join(format!("{}.part", binary::LAYOUT.archive)))?;
    let downloaded = download(&mut part, archive, progress);
    if part.bytes == 0 {
        part.remove()?;
    }
    downloaded?;
    verify(&mut part, archive)?;
    unpack(&mut part, &place)?;
    part.remove()?;
    Ok(Fetched::New(place))
}

/// The file that holds as much of the archive as there is so far.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let failed = |source| Error::io("write", &path, source);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        // Some file systems know no locks: then the checksum has to do.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let problem = "is in use: another download is under way";
            return Err(Error::bad(&path, problem));
        }
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Part { path, file, bytes })
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

    /// The content, from the start.
    fn content(&mut self) -> Result<&File, Error> {
        self.file.rewind().map_err(|source| Error::io("read", &self.path, source))?;
        Ok(&self.file)
    }
}

/// Why a transfer ended early.
enum Failure {
    /// It broke; another may get further.
    Broken(String),
    /// There is no use in trying again.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

fn download(
    part: &mut Part,
    archive: &Archive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("crescendo/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
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
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Broken(reason)) => reason,
        };
        failures = if part.bytes > before { 0 } else { failures + 1 };
        if failures == TRIES {
            let kept = match part.bytes {
                0 => "try again, or get it in another way and say where it is with --data".into(),
                bytes => format!(
                    "{bytes} of {} bytes are kept in {}: try again to go on from there",
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

/// Adds what is missing to the part, with one request.
fn transfer(
    agent: &Agent,
    part: &mut Part,
    archive: &Archive<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    let mut request = agent.get(archive.url);
    if part.bytes > 0 {
        request = request.header("Range", format!("bytes={}-", part.bytes));
    }
    let response = request.call().map_err(|error| match error {
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => {
            Failure::Broken(error.to_string())
        }
        _ => cannot(archive, &error.to_string()),
    })?;

    let skip = match response.status().as_u16() {
        // From the start, whatever was asked for.
        200 => part.bytes,
        206 if starts_at(&response, part.bytes) => 0,
        206 => return Err(cannot(archive, "the server sends another part than it was asked for")),
        416 if part.bytes > 0 => {
            part.clear()?;
            return Err(Failure::Broken("the server has no such part".into()));
        }
        _ => return Err(cannot(archive, &format!("the server answers {}", response.status()))),
    };
    let body = response.into_body();
    let rest = archive.bytes + skip - part.bytes;
    if let Some(length) = body.content_length()
        && length != rest
    {
        return Err(cannot(
            archive,
            &format!("the server offers {length} bytes instead of {rest}: it has another file"),
        ));
    }

    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let mut body = body.into_reader().take(rest);
    io::copy(&mut body.by_ref().take(skip), &mut io::sink()).map_err(broken)?;
    let mut buffer = vec![0; BUFFER];
    while part.bytes < archive.bytes {
        match body.read(&mut buffer).map_err(broken)? {
            0 => return Err(Failure::Broken("the connection was closed".into())),
            read => part.append(&buffer[..read])?,
        }
        progress(part.bytes, archive.bytes);
    }
    Ok(())
}

fn cannot(archive: &Archive<'_>, reason: &str) -> Failure {
    Failure::Final(Error::Download(format!("cannot download {}: {reason}", archive.url)))
}

/// Whether a partial response starts at this byte.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get("Content-Range").and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Removes the part if it is not the archive.
fn verify(part: &mut Part, archive: &Archive<'_>) -> Result<(), Error> {
    let md5 = md5(part.content()?).map_err(|source| Error::io("read", &part.path, source))?;
    if md5 == archive.md5 {
        return Ok(());
    }
    part.remove()?;
    Err(Error::Download(format!(
        "what was downloaded from {} is damaged (its MD5 is {md5} instead of {}) and was removed: \
         try again",
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

/// Unpacks the archive beside its place and moves it there when it is complete.
fn unpack(part: &mut Part, place: &Path) -> Result<(), Error> {
    let beside = place.with_extension("part");
    // An earlier run may have been stopped here.
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(|source| Error::io("remove", &beside, source))?;
    }
    unpack_into(&beside, part).inspect_err(|_| drop(fs::remove_dir_all(&beside)))?;
    fs::rename(&beside, place).map_err(|source| Error::io("create", place, source))?;
    place.parent().map_or(Ok(()), sync_folder)
}

fn unpack_into(folder: &Path, part: &mut Part) -> Result<(), Error> {
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

/// Makes the names in a folder outlast a power cut, where the system has a way to.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| Error::io("write", folder, source))?;
    }
    Ok(())
}
