//! One connection to one or several units: connects, asks, and decides what a fault means for the next request.

use std::{collections::HashMap, io, time::Duration};

use proto::wire::telemetry::QualityReason;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_modbus::{
    Error, ExceptionCode, Request, Response,
    client::{Client, Context, rtu, tcp},
    slave::{Slave, SlaveContext},
};

use super::{
    config::Target,
    plan::{Span, Table},
    serial::{self, silence},
};
use crate::source::live::{BackOff, Outlet};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Timeout,
    Disconnected,
    /// The device can't tell at the moment.
    Busy,
    /// The device will not answer this request, whenever it is asked.
    Refused,
    /// The answer is not one to this request.
    Garbled,
}

impl Fault {
    pub fn reason(self) -> QualityReason {
        match self {
            Fault::Timeout => QualityReason::Timeout,
            Fault::Disconnected => QualityReason::Disconnected,
            Fault::Busy | Fault::Refused => QualityReason::DeviceError,
            Fault::Garbled => QualityReason::Unreadable,
        }
    }
}

pub struct Line {
    target: Target,
    timeout: Duration,
    /// Before every frame; zero where frames are told apart by their header.
    silence: Duration,
    context: Option<Context>,
    connecting: BackOff,
    was_connected: bool,
    /// Units that did not answer the last time.
    quiet: HashMap<u8, BackOff>,
}

impl Line {
    pub fn new(target: Target, timeout: Duration) -> Self {
        let silence = match &target {
            Target::Tcp(_) => Duration::ZERO,
            Target::Rtu { serial, .. } => silence(serial),
        };
        let (connecting, quiet) = (BackOff::default(), HashMap::new());
        Line { target, timeout, silence, context: None, connecting, was_connected: false, quiet }
    }

    /// The registers of a span, or its bits as 0 and 1.
    pub async fn read(&mut self, span: Span, outlet: &Outlet) -> Result<Vec<u16>, Fault> {
        if self.quiet.get(&span.unit_id).is_some_and(|unit| unit.is_waiting(Instant::now())) {
            return Err(Fault::Timeout);
        }
        let answer = self.ask(span, outlet).await;
        match &answer {
            Err(Fault::Timeout) => self.unit_failed(span.unit_id, outlet),
            Err(Fault::Disconnected | Fault::Garbled) => {}
            Ok(_) | Err(Fault::Busy | Fault::Refused) => {
                self.quiet.remove(&span.unit_id);
            }
        }
        answer
    }

    fn unit_failed(&mut self, unit_id: u8, outlet: &Outlet) {
        let back_off = self.quiet.entry(unit_id).or_default();
        if back_off.is_new() {
            tracing::warn!(source = outlet.name, unit_id, "a unit does not answer in time");
        }
        back_off.failed(Instant::now());
    }

    async fn ask(&mut self, span: Span, outlet: &Outlet) -> Result<Vec<u16>, Fault> {
        if self.context.is_none() {
            self.context = Some(self.connect(outlet).await?);
        }
        let Some(context) = &mut self.context else { return Err(Fault::Disconnected) };
        context.set_slave(Slave(span.unit_id));
        let silence = self.silence;
        let call = async {
            sleep(silence).await;
            context.call(request(span)).await
        };
        let fault = match timeout(self.timeout, call).await {
            Ok(Ok(Ok(response))) => {
                self.answered(outlet);
                return registers(response, span).ok_or(Fault::Garbled);
            }
            Ok(Ok(Err(exception))) => {
                self.answered(outlet);
                return Err(refusal(exception));
            }
            Ok(Err(error)) => {
                let (fault, why) = blame(&error);
                if self.connecting.is_new() {
                    tracing::warn!(source = outlet.name, why, "the connection is closed and built up again");
                }
                self.connecting.failed(Instant::now());
                fault
            }
            // An answer that is still under way must not be taken for that to the next request.
            Err(_) => Fault::Timeout,
        };
        self.context = None;
        Err(fault)
    }

    fn answered(&mut self, outlet: &Outlet) {
        if !self.connecting.is_new() {
            tracing::info!(source = outlet.name, "the device answers again");
        }
        self.connecting.succeeded();
    }

    async fn connect(&mut self, outlet: &Outlet) -> Result<Context, Fault> {
        if self.connecting.is_waiting(Instant::now()) {
            return Err(Fault::Disconnected);
        }
        let opened = timeout(self.timeout, open(&self.target)).await;
        match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(context) => {
                if std::mem::replace(&mut self.was_connected, true) {
                    outlet.count_restart();
                }
                Ok(context)
            }
            Err(error) => {
                if self.connecting.is_new() {
                    tracing::warn!(source = outlet.name, %error, "no connection to a device");
                }
                self.connecting.failed(Instant::now());
                Err(Fault::Disconnected)
            }
        }
    }
}

fn blame(error: &Error) -> (Fault, String) {
    match error {
        Error::Protocol(error) => (Fault::Garbled, error.to_string()),
        Error::Transport(error) => match error.kind() {
            io::ErrorKind::InvalidData => (Fault::Garbled, error.to_string()),
            io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => (Fault::Disconnected, error.to_string()),
            // At the end of a stream, tokio-modbus gives whatever error the system had last.
            _ => (Fault::Disconnected, "the other side closed it".into()),
        },
    }
}

async fn open(target: &Target) -> io::Result<Context> {
    Ok(match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            tcp::attach(stream)
        }
        Target::Rtu { path, serial: settings } => rtu::attach(serial::open(path, settings)?),
    })
}

fn request(span: Span) -> Request<'static> {
    let Span { table, address, count, .. } = span;
    match table {
        Table::Coil => Request::ReadCoils(address, count),
        Table::Discrete => Request::ReadDiscreteInputs(address, count),
        Table::Holding => Request::ReadHoldingRegisters(address, count),
        Table::Input => Request::ReadInputRegisters(address, count),
    }
}

/// None: not as many as were asked for.
fn registers(response: Response, span: Span) -> Option<Vec<u16>> {
    let count = usize::from(span.count);
    match response {
        Response::ReadHoldingRegisters(registers) | Response::ReadInputRegisters(registers) => {
            (registers.len() == count).then_some(registers)
        }
        // Bits come in whole bytes.
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => {
            (bits.len() >= count).then(|| bits.into_iter().take(count).map(u16::from).collect())
        }
        _ => None,
    }
}

fn refusal(exception: ExceptionCode) -> Fault {
    match exception {
        ExceptionCode::Acknowledge | ExceptionCode::ServerDeviceBusy => Fault::Busy,
        // Said by a gateway whose unit does not answer.
        ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice => Fault::Timeout,
        _ => Fault::Refused,
    }
}
