//! Kinds of machine in a box plant and the regime in which each one is at ease.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Corrugator,
    FlexoPrinter,
    DieCutter,
    FolderGluer,
    Baler,
    Palletizer,
}

/// What a job asks of the machine, as fractions of its full speed and load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub speed: f64,
    pub load: f64,
}

/// A sound machine of a kind at full speed and full load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Regime {
    pub rpm: f64,
    /// C above the hall's air.
    pub heat: f64,
    /// Time constant of warming and cooling, hours.
    pub heat_hours: f64,
    /// dB(A) at the microphone.
    pub sound: f64,
    /// mm/s RMS.
    pub vibration: f64,
    /// Fraction of full speed at which the frame resonates.
    pub resonance: f64,
    /// Points of relative humidity that the process adds.
    pub steam: f64,
    pub recipes: [Recipe; 6],
}

const fn r(speed: f64, load: f64) -> Recipe {
    Recipe { speed, load }
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Corrugator, Kind::FlexoPrinter, Kind::DieCutter, Kind::FolderGluer, Kind::Baler, Kind::Palletizer];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Corrugator => "corrugator",
            Kind::FlexoPrinter => "flexo-printer",
            Kind::DieCutter => "die-cutter",
            Kind::FolderGluer => "folder-gluer",
            Kind::Baler => "baler",
            Kind::Palletizer => "palletizer",
        }
    }

    /// Makes and models on the floor, as (make, model).
    pub const fn models(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Kind::Corrugator => &[("Halvorsen", "HC-250"), ("Halvorsen", "HC-180"), ("Brandtmann", "Wave 2200")],
            Kind::FlexoPrinter => {
                &[("Kestrel", "FX-4"), ("Kestrel", "FX-6"), ("Oriani", "Stampa 920"), ("Brandtmann", "Print 1600")]
            }
            Kind::DieCutter => {
                &[("Oriani", "Taglio 1300"), ("Dunmore", "RD-66"), ("Dunmore", "RD-80"), ("Sugita", "SDC-2")]
            }
            Kind::FolderGluer => {
                &[("Sugita", "SFG-900"), ("Sugita", "SFG-1200"), ("Kestrel", "GL-3"), ("Varga", "Fold 110")]
            }
            Kind::Baler => &[("Ironbridge", "B-60"), ("Ironbridge", "B-90"), ("Varga", "Press 75")],
            Kind::Palletizer => &[("Nordpak", "P-12"), ("Nordpak", "P-20"), ("Halvorsen", "HP-8")],
        }
    }

    /// Heavy board runs slower at a higher load: speed alone does not tell the load.
    pub(super) const fn regime(self) -> Regime {
        match self {
            Kind::Corrugator => Regime {
                rpm: 1450.0,
                heat: 46.0,
                heat_hours: 0.41,
                sound: 93.0,
                vibration: 4.6,
                resonance: 0.72,
                steam: 14.0,
                recipes: [r(1.0, 0.5), r(0.9, 0.8), r(0.8, 0.4), r(0.7, 0.95), r(0.6, 0.65), r(0.95, 0.65)],
            },
            Kind::FlexoPrinter => Regime {
                rpm: 980.0,
                heat: 28.0,
                heat_hours: 0.27,
                sound: 86.0,
                vibration: 3.2,
                resonance: 0.64,
                steam: 5.0,
                recipes: [r(1.0, 0.45), r(0.85, 0.7), r(0.75, 0.4), r(0.65, 0.9), r(0.55, 0.6), r(0.92, 0.85)],
            },
            Kind::DieCutter => Regime {
                rpm: 620.0,
                heat: 33.0,
                heat_hours: 0.32,
                sound: 91.0,
                vibration: 6.2,
                resonance: 0.8,
                steam: 2.0,
                recipes: [r(1.0, 0.6), r(0.88, 0.9), r(0.75, 0.45), r(0.68, 0.8), r(0.58, 0.95), r(0.95, 0.4)],
            },
            Kind::FolderGluer => Regime {
                rpm: 1180.0,
                heat: 24.0,
                heat_hours: 0.23,
                sound: 84.0,
                vibration: 2.4,
                resonance: 0.7,
                steam: 6.0,
                recipes: [r(1.0, 0.4), r(0.9, 0.65), r(0.8, 0.85), r(0.62, 0.5), r(0.55, 0.8), r(0.72, 0.4)],
            },
            Kind::Baler => Regime {
                rpm: 1480.0,
                heat: 38.0,
                heat_hours: 0.36,
                sound: 89.0,
                vibration: 5.2,
                resonance: 0.6,
                steam: 1.0,
                recipes: [r(0.95, 0.95), r(0.95, 0.5), r(0.8, 0.7), r(0.7, 0.4), r(0.65, 0.95), r(0.85, 0.85)],
            },
            Kind::Palletizer => Regime {
                rpm: 740.0,
                heat: 21.0,
                heat_hours: 0.23,
                sound: 80.0,
                vibration: 1.9,
                resonance: 0.76,
                steam: 0.5,
                recipes: [r(1.0, 0.5), r(0.9, 0.8), r(0.8, 0.4), r(0.7, 0.65), r(0.6, 0.9), r(0.85, 0.6)],
            },
        }
    }
}
