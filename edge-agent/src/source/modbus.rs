//! Modbus devices behind one connection, TCP or serial: registers are read in blocks at every slot.
//!
//! ```text
//! register map ──plan──> blocks ──line──> registers ──decode──> readings
//! ```
//!
//! A block that its device refuses is read sensor by sensor from then on, so that one address that does not exist does
//! not take its neighbours with it. A unit that does not answer is left alone for a while, so that it does not take the
//! time of others behind the same connection.

use std::time::Duration;

use proto::wire::telemetry::QualityReason;
use tokio::time::{Instant, sleep_until};

use super::{
    Reading, Source, SourceError,
    live::{Device, Live, Machines, Outlet, Schedule},
};

mod config;
mod plan;
mod value;
mod serial;
mod line;

pub use config::{ModbusConfig, PORT_DEFAULT, Parity, Register, SerialConfig};
pub use plan::{BITS_PER_READ_MAX, GAP_BITS_MAX, GAP_REGISTERS_MAX, REGISTERS_PER_READ_MAX, Table};
pub use value::{Number, Order};

use config::Target;
use line::{Fault, Line};
use plan::{Block, Span, plan};

/// One sensor of the register map.
#[derive(Debug, Clone)]
struct Point {
    machine: usize,
    span: Span,
    number: Number,
    words: Order,
    bytes: Order,
}

#[derive(Debug)]
pub(super) struct Modbus {
    target: Target,
    interval: Duration,
    timeout: Duration,
    /// By machine, and by sensor within it.
    points: Vec<Point>,
    blocks: Vec<Block>,
}

/// Checks the configuration; nothing is connected before the source is started.
pub(super) fn build(config: &ModbusConfig) -> Result<Box<dyn Source>, SourceError> {
    let target = config.check()?;
    let sensors = config.machines.iter().enumerate().flat_map(|(at, m)| m.sensors.iter().map(move |s| (at, &s.at)));
    let point = |(machine, at): (usize, &Register)| Point {
        machine,
        span: Span {
            unit_id: at.unit_id.unwrap_or(config.unit_id),
            table: at.table,
            address: at.address,
            count: at.number().registers(),
        },
        number: at.number(),
        words: at.word_order.unwrap_or(config.word_order),
        bytes: at.byte_order.unwrap_or(config.byte_order),
    };
    let points: Vec<_> = sensors.map(point).collect();
    let blocks = plan(&points.iter().map(|p| p.span).collect::<Vec<_>>());
    let (interval, timeout) = (Duration::from_millis(config.interval_ms), Duration::from_millis(config.timeout_ms));
    let machines = Machines::new(&config.machines, config.interval_ms);
    let device = Modbus { target, interval, timeout, points, blocks };
    Ok(Box::new(Live::new(config.name.as_ref(), &config.url, machines, device)))
}

impl Device for Modbus {
    async fn run(mut self, mut outlet: Outlet) {
        let mut line = Line::new(self.target.clone(), self.timeout);
        let mut schedule = Schedule::new(Instant::now(), self.interval);
        let mut readings = Vec::with_capacity(self.points.len());
        loop {
            sleep_until(schedule.next()).await;
            outlet.count_missed(schedule.take(Instant::now()));
            let time = outlet.now();
            readings.clear();
            readings.resize(self.points.len(), Reading::bad(QualityReason::Disconnected));
            self.read(&mut line, &outlet, &mut readings).await;
            let rows = self.points.chunk_by(|a, b| a.machine == b.machine);
            let mut rest = &readings[..];
            for row in rows {
                let (now, later) = rest.split_at(row.len());
                outlet.put(row[0].machine, time, now.iter().copied());
                rest = later;
            }
        }
    }
}

impl Modbus {
    async fn read(&mut self, line: &mut Line, outlet: &Outlet, readings: &mut [Reading]) {
        let mut refused = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            match line.read(block.span, outlet).await {
                Err(Fault::Refused) if block.members.len() > 1 => {
                    refused.push(at);
                    for member in &block.members {
                        let answer = line.read(self.points[*member].span, outlet).await;
                        readings[*member] = self.points[*member].reading(self.points[*member].span, &answer);
                    }
                }
                answer => {
                    for member in &block.members {
                        readings[*member] = self.points[*member].reading(block.span, &answer);
                    }
                }
            }
        }
        for at in refused.into_iter().rev() {
            let Block { span, members } = self.blocks.remove(at);
            let Span { unit_id, table, address, count } = span;
            tracing::warn!(
                source = outlet.name,
                unit_id,
                ?table,
                address,
                count,
                "the device refuses a block that holds several sensors; it is read sensor by sensor"
            );
            self.blocks.extend(members.into_iter().map(|m| Block { span: self.points[m].span, members: vec![m] }));
        }
    }
}

impl Point {
    /// Its value in what was read of `block`, before scaling.
    fn reading(&self, block: Span, answer: &Result<Vec<u16>, Fault>) -> Reading {
        let registers = match answer {
            Ok(registers) => registers,
            Err(fault) => return Reading::bad(fault.reason()),
        };
        let from = usize::from(self.span.address - block.address);
        match registers.get(from..from + usize::from(self.span.count)) {
            Some(own) => Reading::good(self.number.decode(own, self.words, self.bytes)),
            None => Reading::bad(QualityReason::Unreadable),
        }
    }
}

#[cfg(test)]
mod tests;
