//! The machines that the ranks run on: what each rank's device is, and its part of the machine.

use crescendo_network::{Device, DeviceKind, DeviceMemory, Devices, EngineConfig, EngineError};

use crate::message::{Reader, Writer, damaged};
use crate::session::Session;

/// A rank's device, and what all ranks say of theirs.
pub(crate) struct Opened {
    pub device: Box<dyn Device>,
    pub hosts: Vec<Rank>,
}

/// What a rank says.
pub(crate) struct Rank {
    pub host: String,
    pub config: EngineConfig,
    /// Its part of the machine's.
    pub memory: DeviceMemory,
}

/// Opens this rank's device.
///
/// # Errors
/// If it cannot be opened on every rank.
pub(crate) fn open(
    session: &Session,
    devices: &dyn Devices,
    config: &EngineConfig,
) -> Result<Opened, EngineError> {
    let host = session.transport().host();
    let hosts = session.gather_bytes(host.as_bytes())?;
    let own = &hosts[session.rank];
    let here = hosts.iter().filter(|&host| host == own).count();
    let device = session.agree(devices.open(config))?;
    let DeviceMemory { mut total, mut available } = device.memory();
    let config = device.config();
    if config.device == DeviceKind::Cpu {
        // They share it; each rank has a card of its own.
        [total, available] = [total, available].map(|bytes| Some(bytes? / here as u64));
    }
    let mut report = Writer::default();
    report.text(&toml::to_string(&config).expect("only strings for keys"));
    for bytes in [total, available] {
        report.bool(bytes.is_some());
        report.usize(bytes.unwrap_or_default() as usize);
    }
    let reports = session.gather_bytes(&report.0)?;
    let read = |(host, report): (Vec<u8>, Vec<u8>)| -> Result<Rank, EngineError> {
        let mut report = Reader(&report);
        let config = toml::from_str(&report.text()?).map_err(|_| damaged())?;
        let mut bytes = || {
            let (is_known, bytes) = (report.bool()?, report.usize()?);
            Ok::<_, EngineError>(is_known.then_some(bytes as u64))
        };
        let memory = DeviceMemory { total: bytes()?, available: bytes()? };
        Ok(Rank { host: String::from_utf8_lossy(&host).into_owned(), config, memory })
    };
    let hosts = hosts.into_iter().zip(reports).map(read).collect::<Result<_, _>>()?;
    Ok(Opened { device, hosts })
}
