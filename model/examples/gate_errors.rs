//! How often the gate errs: 200 comparisons of two models that are equally good, and 200 with a challenger that is truly
//! worse, for slices of several sizes. `cargo run --release -p model --example gate_errors`

use model::gate::error_rates::{A_LITTLE_WORSE, EQUALLY_GOOD, Rates, SEED, WORSE, WORSE_IN_ONE_MODE, rates};

const COMPARISONS: usize = 200;

fn main() {
    println!("seed {SEED}, {COMPARISONS} comparisons a line\n");
    println!(
        "{:<20} {:>8} {:>12} {:>9} {:>8} {:>6}",
        "challenger", "failures", "true F1", "promoted", "refused", "waits"
    );
    for weakness in [EQUALLY_GOOD, A_LITTLE_WORSE, WORSE, WORSE_IN_ONE_MODE] {
        for failures in [20, 40, 80, 160, 320] {
            let Rates { promoted, refused, waits, difference, .. } = rates(&weakness, failures, COMPARISONS);
            let share = |n: usize| format!("{:.1} %", n as f64 * 100.0 / COMPARISONS as f64);
            let (promoted, refused, waits) = (share(promoted), share(refused), share(waits));
            println!("{:<20} {failures:>8} {difference:>+12.3} {promoted:>9} {refused:>8} {waits:>6}", weakness.name);
        }
    }
}
