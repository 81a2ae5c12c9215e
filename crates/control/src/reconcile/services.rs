//! When the services of hosts change: after the objects that they come from did.

use super::{Change, Control};
use crate::error::Error;
use crate::model::Kind;
use crate::services::compile;

impl Change {
    /// Whether services of hosts may depend on it.
    pub(super) fn touches_services(&self) -> bool {
        let (Self::Create(any) | Self::Delete(any) | Self::Replace { new: any, .. }) = self;
        any.kind().is_service() || matches!(any.kind(), Kind::Port | Kind::Network)
    }
}

impl Control {
    /// Makes the services those of the objects.
    pub(super) fn settle_services(&mut self) -> Result<(), Error> {
        let services = compile(&self.inventory, &self.services);
        if services == self.services {
            return Ok(());
        }
        let done = self.plane.set_services(&services);
        done.map_err(|refusal| Error::Refused {
            action: "apply",
            object: "services".to_owned(),
            refusal,
        })?;
        self.services = services;
        Ok(())
    }

    /// At the start, and after changes were taken back.
    pub(super) fn resettle_services(&mut self) {
        if let Err(error) = self.settle_services() {
            tracing::error!(%error, "the services of networks are not those of the objects");
        }
    }
}
