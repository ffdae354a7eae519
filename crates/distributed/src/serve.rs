//! What the ranks do that do not train themselves.

use std::collections::HashMap;
use std::sync::Arc;

use crescendo_network::{Device, Devices, EngineError};

use crate::command::Command;
use crate::host::open;
use crate::local::Local;
use crate::message::damaged;
use crate::session::Session;
use crate::transport::Transport;

/// Does what rank 0 asks of this rank, until rank 0 stops it. `devices` opens the device of this rank.
///
/// See the example of [`DistributedDevices`](crate::DistributedDevices).
///
/// # Errors
/// If this rank cannot go on: then none can.
pub fn serve(transport: Box<dyn Transport>, devices: &dyn Devices) -> Result<(), EngineError> {
    let session = Arc::new(Session::new(transport));
    let mut opened: HashMap<u32, Box<dyn Device>> = HashMap::new();
    let mut engines: HashMap<u32, Local> = HashMap::new();
    let mut message = Vec::new();
    loop {
        session.broadcast(&mut message)?;
        match Command::read(&message)? {
            // What fails on one rank is known to all: rank 0 decides what follows.
            Command::Open { device, config } => {
                if let Ok(own) = open(&session, devices, &config) {
                    opened.insert(device, own.device);
                }
            }
            Command::Close { device } => drop(opened.remove(&device)),
            Command::Make { engine, device, graph } => {
                let device = opened.get(&device).ok_or_else(damaged)?;
                if let Ok(own) = session.agree(device.engine(&graph)) {
                    engines.insert(engine, Local::new(session.clone(), own));
                }
            }
            Command::Drop { engine } => drop(engines.remove(&engine)),
            Command::Call { engine, call } => {
                let engine = engines.get_mut(&engine).ok_or_else(damaged)?;
                let may_fail = call.may_fail();
                let outcome = engine.execute(call, &[]);
                if may_fail {
                    let _ = session.agree(outcome);
                } else {
                    outcome?;
                }
            }
            Command::Stop => return Ok(()),
        }
    }
}
