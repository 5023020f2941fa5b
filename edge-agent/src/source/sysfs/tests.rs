use std::fs;

use proto::{
    asset::AssetId,
    time::PlantClock,
    wire::telemetry::{MachineInfo, Quality},
};
use tokio::sync::watch;

use super::*;
use crate::{source::Item, telemetry::Metrics};

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
    root
}

const FILES: [(&str, &str); 17] = [
    ("bus/iio/devices/iio:device0/name", "bme280"),
    ("bus/iio/devices/iio:device0/in_temp_input", "21500"),
    ("bus/iio/devices/iio:device0/in_humidityrelative_input", "45250"),
    ("bus/iio/devices/iio:device0/in_pressure_input", "101.3"),
    ("bus/iio/devices/iio:device1/name", "adxl345"),
    ("bus/iio/devices/iio:device1/in_accel_x_raw", "-200"),
    ("bus/iio/devices/iio:device1/in_accel_scale", "0.038245"),
    ("bus/iio/devices/iio:device2/name", "max1363"),
    ("bus/iio/devices/iio:device2/in_voltage0_raw", "1000"),
    ("bus/iio/devices/iio:device2/in_voltage0_offset", "24"),
    ("bus/iio/devices/iio:device2/in_voltage_scale", "0.5"),
    ("class/hwmon/hwmon0/name", "nct6775"),
    ("class/hwmon/hwmon0/temp1_input", "-5000"),
    ("class/hwmon/hwmon0/temp2_input", "20000"),
    ("class/hwmon/hwmon0/temp2_fault", "1"),
    ("class/hwmon/hwmon0/fan1_input", "1200"),
    ("class/hwmon/hwmon0/in0_input", "3300"),
];

fn config(root: &Path, interval_ms: u64, sensors: &[(&str, &str)]) -> SysfsConfig {
    let sensor = |(at, (unit, place)): (usize, &(&str, &str))| {
        format!("{{ sensor = 's{at}', unit = '{unit}', at = {{ {place} }} }}")
    };
    let sensors: Vec<_> = sensors.iter().enumerate().map(sensor).collect();
    let text = format!(
        "root = '{}'\ninterval_ms = {interval_ms}\ntimeout_ms = 300\n[[machines]]\nid = 'hall'\nkind = 'hall'\nsensors = [{}]",
        root.display(),
        sensors.join(", ")
    );
    toml::from_str(&text).unwrap()
}

struct Running(Box<dyn Source>);

impl Running {
    fn start(config: &SysfsConfig) -> Running {
        let mut source = build(config, Path::new("")).unwrap();
        let (_, clock) = watch::channel(PlantClock::WALL);
        source.start(clock, &Metrics::new(&AssetId::new("gw").unwrap()));
        Running(source)
    }

    /// The next row that `wanted` accepts.
    async fn row(&mut self, wanted: impl Fn(&[Reading]) -> bool) -> Vec<Reading> {
        for _ in 0..3_000 {
            let mut items = Vec::new();
            while self.0.poll(PlantClock::WALL.now(), 1, &mut items).unwrap() {}
            for item in items {
                if let Item::Sample(sample) = item
                    && wanted(&sample.values)
                {
                    return sample.values;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no such row");
    }
}

#[tokio::test]
async fn the_kernels_units_become_ours() {
    let root = tree(&FILES);
    let sensors = [
        ("C", "device = 'bme280', channel = 'in_temp'", 21.5),
        ("K", "device = 'bme280', channel = 'in_temp'", 294.65),
        ("F", "device = 'iio:device0', channel = 'in_temp'", 70.7),
        ("%", "device = 'bme280', channel = 'in_humidityrelative'", 45.25),
        ("bar", "device = 'bme280', channel = 'in_pressure'", 1.013),
        ("1", "device = 'adxl345', channel = 'in_accel_x'", -7.649),
        ("V", "device = 'max1363', channel = 'in_voltage0'", 0.512),
        ("C", "device = 'nct6775', channel = 'temp1'", -5.0),
        ("rpm", "device = 'nct6775', channel = 'fan1'", 1_200.0),
        ("Hz", "device = 'hwmon0', channel = 'fan1'", 20.0),
        ("V", "device = 'nct6775', channel = 'in0'", 3.3),
        ("1", "path = 'class/hwmon/hwmon0/fan1_input'", 1_200.0),
    ];
    let mut config = config(root.path(), 50, &sensors.map(|(unit, place, _)| (unit, place)));
    let path = root.path().join("class/hwmon/hwmon0/fan1_input");
    config.machines[0].sensors[11].at.path = Some(path);
    let row = Running::start(&config).row(|_| true).await;
    for (reading, (unit, place, value)) in row.iter().zip(sensors) {
        assert_eq!(reading.quality, Quality::Good, "{place}");
        assert!((reading.value - value).abs() < 1e-9, "{place} in {unit}: {reading:?}");
    }
}

#[tokio::test]
async fn a_sensor_that_fails_says_why_and_one_that_comes_back_is_found_again() {
    let root = tree(&FILES);
    let temp = root.path().join("bus/iio/devices/iio:device0");
    let sensors = [
        ("C", "device = 'bme280', channel = 'in_temp'"),
        ("C", "device = 'nct6775', channel = 'temp1'"),
        ("C", "device = 'nct6775', channel = 'temp2'"),
        ("C", "device = 'nct6775', channel = 'temp9'"),
        ("C", "device = 'elsewhere', channel = 'temp1'"),
    ];
    let mut running = Running::start(&config(root.path(), 30, &sensors));
    let row = running.row(|_| true).await;
    let reasons: Vec<_> = row.iter().map(|r| r.reason).collect();
    use QualityReason::*;
    assert_eq!(reasons, [None, None, DeviceError, Disconnected, Disconnected]);

    fs::write(temp.join("in_temp_input"), "error\n").unwrap();
    running.row(|row| row[0].reason == Unreadable && row[1].quality == Quality::Good).await;
    // Pulled out, and plugged in again as another number.
    fs::rename(&temp, root.path().join("pulled")).unwrap();
    running.row(|row| row[0].reason == Disconnected).await;
    fs::write(root.path().join("pulled/in_temp_input"), "30000\n").unwrap();
    fs::rename(root.path().join("pulled"), root.path().join("bus/iio/devices/iio:device7")).unwrap();
    assert_eq!(running.row(|row| row[0].quality == Quality::Good).await[0], Reading::good(30.0));
}

/// A pipe that nobody writes to: whoever opens it hangs.
#[tokio::test]
async fn a_device_that_hangs_keeps_no_other_waiting() {
    let root = tree(&FILES);
    let pipe = root.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut config = config(root.path(), 30, &[("C", "path = 'x'"), ("C", "device = 'nct6775', channel = 'temp1'")]);
    config.machines[0].sensors[0].at.path = Some(pipe.clone());
    let mut running = Running::start(&config);
    for _ in 0..20 {
        let row = running.row(|_| true).await;
        assert_eq!((row[0].quality, row[0].reason), (Quality::Bad, QualityReason::Timeout));
        assert_eq!(row[1], Reading::good(-5.0));
    }
    // It wakes up: the old answer is not taken, the next one is. Opening lasts until the other side does, too.
    fs::write(&pipe, "1\n").unwrap();
    fs::remove_file(&pipe).unwrap();
    fs::write(&pipe, "2\n").unwrap();
    assert_eq!(running.row(|row| row[0].quality == Quality::Good).await[0], Reading::good(2.0));
}

#[test]
fn a_place_that_makes_no_sense_is_refused_before_anything_is_read() {
    let nowhere = Path::new("/nowhere");
    for (unit, place, said) in [
        ("rpm", "device = 'a', channel = 'temp1'", "`temp1` is in C, which can't be given in rpm"),
        ("C", "device = 'a'", "needs either `device` and `channel`, or `path`"),
        ("C", "device = 'a', channel = 'temp1', path = '/x'", "needs either"),
        ("C", "device = '../a', channel = 'temp1'", "are names, not paths"),
    ] {
        let error = build(&config(nowhere, 1_000, &[(unit, place)]), nowhere).err().unwrap().to_string();
        assert!(error.starts_with("source.machines.sensors.at: `hall`, `s0`: ") && error.contains(said), "{error}");
    }
    let source = build(&config(nowhere, 1_000, &[("C", "device = 'a', channel = 'temp1'")]), nowhere).unwrap();
    let [MachineInfo { machine, sensors, .. }] = &source.machines()[..] else { panic!() };
    assert_eq!((machine.as_str(), sensors[0].unit.as_str(), sensors[0].interval_ms), ("hall", "C", 1_000));
}
