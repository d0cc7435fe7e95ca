//! Who watches a run. What people see of it is the report's business.

use super::events::Event;

/// Watches a run.
pub trait Observer {
    /// Shows something that is no error, but has to be seen.
    fn warn(&self, text: &str);

    /// Shows how far the run is.
    fn say(&self, text: &str);

    /// Watches one bake. Of a bake that only exports caches, the steps were shown before.
    fn watch(&self, is_export: bool) -> Box<dyn Watcher>;
}

/// Watches one bake.
pub trait Watcher {
    /// Takes the next event.
    fn show(&mut self, event: &Event);

    /// Is called every few milliseconds.
    fn tick(&mut self);

    /// Is called once, after the last event.
    fn end(&mut self);
}
