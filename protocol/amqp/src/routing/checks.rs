//! Whether a declaration may be made, without making it: for whoever keeps the declarations elsewhere
//! and folds them into a [`Topology`] once they are certain.

use super::{Destination, ExchangeShape, Rule, Topology, headers};
use crate::error::{Fault, ReplyCode, Resource};
use crate::shortstr::ShortStr;
use crate::table::FieldTable;

impl Topology {
    /// Whether the exchange is there already, as it is declared; false: it could be made.
    ///
    /// # Errors
    /// Those of [`Topology::declare_exchange`].
    pub fn check_declared(&self, name: &ShortStr, shape: &ExchangeShape) -> Result<bool, Fault> {
        let resource = Resource::exchange(name, &self.vhost);
        if let Some(exchange) = self.exchanges.get(name) {
            return exchange.shape.check(shape, resource).map(|()| true);
        }
        if name.starts_with("amq.") {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(Fault::new(ReplyCode::AccessRefused, text));
        }
        shape.alternate(resource).map(|_| false)
    }

    /// Whether nothing is bound to the exchange as its source; one that is not there is unused.
    ///
    /// # Errors
    /// 406 where something is.
    pub fn check_unused(&self, name: &str) -> Result<(), Fault> {
        match self.exchanges.get(name) {
            Some(exchange) if !exchange.bindings.is_empty() => {
                let text = format!("{} in use", Resource::exchange(name, &self.vhost));
                Err(Fault::new(ReplyCode::PreconditionFailed, text))
            }
            _ => Ok(()),
        }
    }

    /// Whether such a binding can be.
    ///
    /// # Errors
    /// Those of [`Topology::bind`].
    pub fn check_bound(
        &self,
        source: &str,
        destination: &Destination,
        arguments: &FieldTable,
    ) -> Result<(), Fault> {
        let exchange = self.exchange(source)?;
        match destination {
            Destination::Exchange(name) => self.exchange(name).map(|_| ())?,
            Destination::Queue(name) if self.queues.contains(name) => {}
            Destination::Queue(name) => {
                return Err(Resource::queue(name, &self.vhost).not_found());
            }
        }
        if exchange.shape.rule == Rule::Headers {
            headers::check_arguments(arguments)?;
        }
        Ok(())
    }
}
