//! The processor as a process while everything around it fails.

mod calls;
mod endpoint;
mod hall;
mod kill;
mod outage;
mod plant;
mod promotion;
mod provisional;
mod proxy;
mod told;
mod zombie;
