//! When the services of hosts change: after the objects that they come from did.

use super::{Change, Control};
use crate::balance::{LoadBalancerState, believe_unprobed, vantages};
use crate::dataplane::Refusal;
use crate::error::Error;
use crate::event::What;
use crate::model::FailedConnections;
use crate::model::Kind;
use crate::services::{balancers, compile, departed};

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
        let refused = |refusal: Refusal| Error::Refused {
            action: "apply",
            object: "services".to_owned(),
            refusal,
        };
        if services != self.services {
            self.plane.set_services(&services).map_err(refused)?;
            let before = std::mem::replace(&mut self.services, services);
            let gone = departed(&before, &self.services);
            self.plane.end_members(&gone).map_err(refused)?;
        }
        let vantages = vantages(&self.inventory, &self.services);
        self.plane.set_probes(&vantages).map_err(refused)?;
        believe_unprobed(&self.inventory, &self.services);
        Ok(())
    }

    /// What probes have found: it is told, and connections of members that failed end where that is wanted.
    pub(super) fn watch_members(&mut self) {
        for change in self.plane.health_changes() {
            let object = format!("load-balancer {}", change.balancer);
            let (what, word) = match change.up {
                true => (What::Up, "up"),
                false => (What::Down, "down"),
            };
            tracing::info!(object, member = %change.member, why = change.why, "member {word}");
            let detail = format!("member {}: {}", change.member, change.why);
            self.events.note(what, object, detail);
            let spec = self.inventory.load_balancer(&change.balancer);
            let ends =
                spec.is_some_and(|of| of.spec.failed_connections == FailedConnections::Reset);
            if !change.up
                && ends
                && let Err(error) = self.plane.end_members(&[change.slot])
            {
                tracing::error!(%error, "connections of a member that failed are not ended");
            }
        }
    }

    /// A load balancer as it is now; nothing for one that is not there.
    pub fn load_balancer_state(&self, name: &str) -> Option<LoadBalancerState> {
        let balancers = balancers(&self.services);
        let balancer = balancers.get(name)?;
        let slots: Vec<u16> = balancer.members.iter().map(|member| member.slot).collect();
        let live = self.plane.member_connections(&slots).unwrap_or_default();
        Some(LoadBalancerState::of(balancer, &live))
    }

    /// At the start, and after changes were taken back.
    pub(super) fn resettle_services(&mut self) {
        if let Err(error) = self.settle_services() {
            tracing::error!(%error, "the services of networks are not those of the objects");
        }
    }
}
