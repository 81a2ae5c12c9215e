//! What the demo says: progress with elapsed time while it works, a table of outcomes at its end.

use std::time::Instant;

/// One line of the final table.
struct Row {
    what: String,
    outcome: String,
    passed: bool,
}

/// Progress and outcomes.
pub struct Report {
    begun: Instant,
    rows: Vec<Row>,
}

impl Report {
    /// The clock starts now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            rows: Vec::new(),
        }
    }

    /// Says what is done next.
    pub fn step(&self, what: &str) {
        println!("[{:5.1}s] {what}", self.begun.elapsed().as_secs_f32());
    }

    /// Notes an outcome for the table, and says it now.
    pub fn row(&mut self, what: &str, outcome: impl Into<String>, passed: bool) {
        let outcome = outcome.into();
        let verdict = verdict(passed);
        println!(
            "[{:5.1}s]   {what}: {outcome}: {verdict}",
            self.begun.elapsed().as_secs_f32()
        );
        self.rows.push(Row {
            what: what.to_owned(),
            outcome,
            passed,
        });
    }

    /// Whether there is a row and every row has passed.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.passed)
    }

    /// Prints the table.
    pub fn print(&self) {
        let width = |cell: fn(&Row) -> &str| {
            let longest = self.rows.iter().map(|row| cell(row).chars().count()).max();
            longest.unwrap_or(0)
        };
        let (what, outcome) = (width(|row| &row.what), width(|row| &row.outcome));
        let line = "-".repeat(what + outcome + 12);
        println!("\n{line}");
        for row in &self.rows {
            println!(
                "{:what$}  {:outcome$}  {}",
                row.what,
                row.outcome,
                verdict(row.passed)
            );
        }
        println!("{line}");
        let passed = self.rows.iter().filter(|row| row.passed).count();
        println!(
            "{passed} of {} passed in {:.0} s",
            self.rows.len(),
            self.begun.elapsed().as_secs_f32()
        );
    }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}
