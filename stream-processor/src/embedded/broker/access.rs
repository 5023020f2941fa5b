//! Who may publish what at the embedded broker: an agent under its own name, and acks and commands only the processor. A
//! forged ack would make a gateway forget what is not archived.

use async_trait::async_trait;
use proto::topic::{Channel, Topic};
use rmqtt::{
    hook::{Handler, HookResult, Parameter, ReturnType},
    types::{AuthResult, PublishAclResult},
};

/// Name and password of the one client that may publish everything.
#[derive(Debug, Clone)]
pub struct Login {
    pub name: String,
    pub password: String,
}

pub struct Access(pub Login);

#[async_trait]
impl Handler for Access {
    async fn hook(&self, parameter: &Parameter, before: Option<HookResult>) -> ReturnType {
        match parameter {
            // Asked only of clients that give a name; the others may connect as agents.
            Parameter::ClientAuthenticate(client) => {
                let name = client.username().is_some_and(|name| *name == *self.0.name);
                let password = client.password().is_some_and(|password| *password == *self.0.password.as_bytes());
                let superuser = true;
                let answer = match name && password {
                    true => AuthResult::Allow(superuser, None),
                    false => AuthResult::BadUsernameOrPassword,
                };
                (false, Some(HookResult::AuthResult(answer)))
            }
            // Not asked of a superuser.
            Parameter::MessagePublishCheckAcl(session, message) => {
                let answer = match agent_may(&session.id.client_id, &message.topic) {
                    true => PublishAclResult::allow(),
                    false => {
                        tracing::warn!(client = %session.id.client_id, topic = %message.topic, "a message was refused");
                        PublishAclResult::rejected(false, None)
                    }
                };
                (false, Some(HookResult::PublishAclResult(answer)))
            }
            _ => (true, before),
        }
    }
}

/// An agent's client id is its name, a hyphen, and its install id.
fn agent_may(client: &str, topic: &str) -> bool {
    let Ok(topic) = Topic::parse(topic) else { return false };
    let own = client.strip_prefix(topic.agent.as_str()).is_some_and(|rest| rest.starts_with('-'));
    own && matches!(topic.channel, Channel::Telemetry | Channel::Birth | Channel::Status)
}

#[cfg(test)]
mod tests {
    use proto::asset::AssetId;

    use super::*;

    #[test]
    fn an_agent_speaks_for_itself_only_and_never_for_the_processor() {
        let topic = |agent: &str, channel| {
            Topic::new(&AssetId::new("mill").unwrap(), &AssetId::new(agent).unwrap(), channel).to_string()
        };
        let client = "gateway-1-0a1b";
        for channel in [Channel::Telemetry, Channel::Birth, Channel::Status] {
            assert!(agent_may(client, &topic("gateway-1", channel)));
            assert!(!agent_may(client, &topic("gateway-2", channel)));
            assert!(!agent_may("gateway-10-0a1b", &topic("gateway-1", channel)));
        }
        for channel in [Channel::Ack, Channel::Command] {
            assert!(!agent_may(client, &topic("gateway-1", channel)));
        }
        assert!(!agent_may(client, "elsewhere/gateway-1"));
    }
}
