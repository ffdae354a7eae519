//! Downloads from a local server that may misbehave in every way.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crescendo_data::{FetchOutcome, RemoteArchive, fetch, open};
use md5::{Digest, Md5};
use tempfile::tempdir;

use crate::common::{Batches, archive, write};

const PLACE: &str = "cifar-10-batches-bin";
const PART: &str = "cifar-10-binary.tar.gz.part";

/// How the server answers one request.
#[derive(Clone, Copy)]
enum Answer {
    /// Sends what is requested.
    Right,
    /// Sends everything, ignoring the range.
    Everything,
    /// Announces what is requested, but closes the connection after this number of bytes.
    Cut(usize),
    /// The same with everything, ignoring the range.
    EverythingCut(usize),
    /// Sends what is requested, with one byte changed.
    Corrupt,
    /// Sends a shorter file as if it were complete.
    Short,
    /// Sends a different range than requested.
    OtherPart,
    /// Sends only this status.
    Status(&'static str),
}

/// Serves `content` to as many requests as there are answers. Returns the URL and the `Range` of each
/// request.
fn serve(content: &[u8], answers: &[Answer]) -> (String, Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/cifar.tar.gz", listener.local_addr().unwrap());
    let (content, answers) = (content.to_vec(), answers.to_vec());
    let (sender, ranges) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut connection, _) = listener.accept().unwrap();
            let range = read_range(&connection);
            // This fails if the client has closed the connection already.
            let _ = respond(&mut connection, &content, answer, range.as_deref());
            let _ = sender.send(range);
        }
    });
    (url, ranges)
}

fn read_range(connection: &TcpStream) -> Option<String> {
    let lines = BufReader::new(connection).lines().map(Result::unwrap);
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let named = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then(|| value.to_owned())
    };
    headers.iter().find_map(named)
}

fn respond(
    connection: &mut TcpStream,
    content: &[u8],
    answer: Answer,
    range: Option<&str>,
) -> std::io::Result<()> {
    let asked: usize = range.map_or(0, |range| {
        range
            .strip_prefix("bytes=")
            .and_then(|range| range.strip_suffix('-'))
            .unwrap()
            .parse()
            .unwrap()
    });
    let start = match answer {
        Answer::Status(status) => {
            return write!(
                connection,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
        }
        Answer::Everything | Answer::EverythingCut(_) => 0,
        Answer::OtherPart => asked - 1,
        _ => asked,
    };
    let mut body = content[start..].to_vec();
    if matches!(answer, Answer::Short) {
        body.truncate(100);
    }
    let status = match start {
        0 => "HTTP/1.1 200 OK".to_owned(),
        _ => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{}",
            content.len() - 1,
            content.len()
        ),
    };
    write!(connection, "{status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    match answer {
        Answer::Cut(length) | Answer::EverythingCut(length) => body.truncate(length),
        Answer::Corrupt => body[50] ^= 1,
        _ => {}
    }
    connection.write_all(&body)
}

/// A data set to download.
struct Download {
    batches: Batches,
    content: Vec<u8>,
    md5: String,
}

impl Download {
    fn new() -> Self {
        let batches = Batches::new([2, 1, 1, 3, 1, 2], 7);
        let content = archive(PLACE, &batches.binary());
        let md5 = Md5::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Download { batches, content, md5 }
    }

    /// Downloads from a server with these answers. Returns the result and the requested ranges.
    fn fetch(
        &self,
        folder: &Path,
        answers: &[Answer],
    ) -> (Result<FetchOutcome, String>, Vec<Option<String>>) {
        let (url, ranges) = serve(&self.content, answers);
        let bytes = self.content.len() as u64;
        let mut last = 0;
        let result = fetch(
            folder,
            &RemoteArchive { url: &url, md5: &self.md5, bytes },
            &mut |done, total| {
                assert!(done <= total && total == bytes, "{done} of {total}");
                last = done;
            },
        );
        if matches!(result, Ok(FetchOutcome::Downloaded(_))) {
            assert_eq!(last, bytes);
        }
        (result.map_err(|error| error.to_string()), ranges.try_iter().collect())
    }

    /// The same for a download that must succeed and request these ranges.
    fn succeeds(&self, folder: &Path, answers: &[Answer], ranges: &[Option<usize>]) {
        let (result, asked) = self.fetch(folder, answers);
        assert_eq!(result.unwrap(), FetchOutcome::Downloaded(folder.join(PLACE)));
        let ranges: Vec<_> =
            ranges.iter().map(|range| range.map(|start| format!("bytes={start}-"))).collect();
        assert_eq!(asked, ranges);
        self.is_in_place(folder);
    }

    fn is_in_place(&self, folder: &Path) {
        let set = open(&folder.join(PLACE)).unwrap();
        assert!((set.train, set.test) == self.batches.splits());
        for (name, content) in self.batches.binary() {
            assert!(fs::read(folder.join(PLACE).join(name)).unwrap() == content);
        }
        assert_eq!(names(folder), [PLACE]);
    }
}

/// The names of a folder's entries.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_download_is_put_in_place() {
    let root = tempdir().unwrap();
    let folder = root.path().join("not/there/yet");
    Download::new().succeeds(&folder, &[Answer::Right], &[None]);
}

#[test]
fn a_broken_transfer_is_resumed() {
    let folder = tempdir().unwrap();
    let answers = [Answer::Cut(1000), Answer::Cut(0), Answer::Cut(500), Answer::Right];
    let ranges = [None, Some(1000), Some(1000), Some(1500)];
    Download::new().succeeds(folder.path(), &answers, &ranges);
}

#[test]
fn a_server_without_ranges_works() {
    let folder = tempdir().unwrap();
    let answers = [Answer::Cut(1000), Answer::EverythingCut(3000), Answer::Everything];
    let ranges = [None, Some(1000), Some(3000)];
    Download::new().succeeds(folder.path(), &answers, &ranges);
}

#[test]
fn after_a_refused_range_the_download_starts_over() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join(PART), [0; 1000]).unwrap();
    let answers = [Answer::Status("416 Range Not Satisfiable"), Answer::Right];
    Download::new().succeeds(folder.path(), &answers, &[Some(1000), None]);
}

#[test]
fn a_partial_file_that_is_too_long_is_discarded() {
    let folder = tempdir().unwrap();
    let download = Download::new();
    fs::write(folder.path().join(PART), vec![0; download.content.len() + 1]).unwrap();
    download.succeeds(folder.path(), &[Answer::Right], &[None]);
}

#[test]
fn a_failed_download_is_resumed_by_the_next() {
    let folder = tempdir().unwrap();
    let download = Download::new();
    let answers =
        [Answer::Cut(1000), Answer::Cut(0), Answer::Cut(0), Answer::Cut(0), Answer::Cut(0)];
    let (result, ranges) = download.fetch(folder.path(), &answers);
    let error = result.unwrap_err();
    let kept = format!("1000 of {} bytes are kept in", download.content.len());
    assert!(error.contains(&kept) && error.contains(PART), "{error}");
    assert_eq!(ranges.len(), answers.len());
    assert_eq!(names(folder.path()), [PART]);

    // An interrupted run may have left a half-unpacked archive.
    write(&folder.path().join("cifar-10-batches-bin.part"), &[("x".into(), vec![1])]);
    download.succeeds(folder.path(), &[Answer::Right], &[Some(1000)]);
}

#[test]
fn a_corrupt_download_is_removed() {
    let folder = tempdir().unwrap();
    let download = Download::new();
    let (result, _) = download.fetch(folder.path(), &[Answer::Corrupt]);
    let error = result.unwrap_err();
    assert!(error.contains("damaged (its MD5 is") && error.contains(&download.md5), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
    download.succeeds(folder.path(), &[Answer::Right], &[None]);
}

#[test]
fn a_wrong_answer_is_an_error_without_further_attempts() {
    let folder = tempdir().unwrap();
    for (answer, expected) in [
        (Answer::Status("404 Not Found"), "the server answered 404 Not Found"),
        (Answer::Status("503 Service Unavailable"), "the server answered 503 Service Unavailable"),
        (Answer::Short, "the server offers 100 bytes instead of"),
    ] {
        let (result, _) = Download::new().fetch(folder.path(), &[answer]);
        let error = result.unwrap_err();
        assert!(error.starts_with("cannot download http://127.0.0.1"), "{error}");
        assert!(error.contains(expected), "{error}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
    fs::write(folder.path().join(PART), [0; 1000]).unwrap();
    let (result, _) = Download::new().fetch(folder.path(), &[Answer::OtherPart]);
    assert!(result.unwrap_err().contains("a different range"));
}

#[test]
fn an_unreachable_server_is_named() {
    let folder = tempdir().unwrap();
    let (result, _) = Download::new().fetch(folder.path(), &[]);
    let error = result.unwrap_err();
    assert!(error.starts_with("cannot download http://127.0.0.1"), "{error}");
    assert!(error.contains("--data"), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn an_existing_data_set_is_left_alone() {
    let folder = tempdir().unwrap();
    let other = Batches::new([1; 6], 1);
    write(&folder.path().join(PLACE), &other.binary());
    let (result, ranges) = Download::new().fetch(folder.path(), &[]);
    assert_eq!(result.unwrap(), FetchOutcome::AlreadyPresent(folder.path().join(PLACE)));
    assert!(ranges.is_empty());
    assert_eq!(names(folder.path()), [PLACE]);
    let set = open(folder.path()).unwrap();
    assert!((set.train, set.test) == other.splits());
}

#[test]
fn an_incomplete_data_set_is_left_alone_and_reported() {
    let folder = tempdir().unwrap();
    write(&folder.path().join(PLACE), &Batches::new([1; 6], 1).binary()[1..]);
    let (result, _) = Download::new().fetch(folder.path(), &[]);
    let error = result.unwrap_err();
    assert!(error.contains("remove it and try again"), "{error}");
    assert!(error.contains("data_batch_1.bin: is missing"), "{error}");
    assert_eq!(names(&folder.path().join(PLACE)).len(), 6);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let root = tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let (result, _) = Download::new().fetch(&file.join("folder"), &[]);
    let error = result.unwrap_err();
    assert!(error.starts_with("cannot create ") && error.contains("folder"), "{error}");
}

#[test]
fn two_downloads_do_not_write_to_one_file() {
    let folder = tempdir().unwrap();
    let part = File::create(folder.path().join(PART)).unwrap();
    part.lock().unwrap();
    let (result, _) = Download::new().fetch(folder.path(), &[]);
    let error = result.unwrap_err();
    assert!(error.contains("in use by another download"), "{error}");
}
