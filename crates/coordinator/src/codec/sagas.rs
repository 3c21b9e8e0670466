//! What a saga's events are in the log.

use super::read::{Reader, label};
use super::write::{
    Fixed, SAGA, TRANSACTION, Tags, parent_bytes, put_audit, put_branches, put_long, put_output,
    words,
};
use super::{CodecError, EXTENSION_VERSION, tag};
use base::{CoordinatorId, NodeName, OperationId};
use saga::{Action, Definition, FailedEffect, Performer, Undo};
use twopc::Audit;
use wal_core::EventType;

/// How long the payload of a `saga_step_succeeded` is that brings so many bytes.
#[must_use]
pub fn step_succeeded_bytes(output: usize) -> usize {
    8 + 4 + 1 + Tags::bytes(1 + output)
}

pub(super) fn put_timeout(tags: &mut Tags<'_>, timeout: Option<std::time::Duration>) {
    if let Some(timeout) = timeout {
        // Five hundred years are the most that the format can say.
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        tags.put(tag::TIMEOUT, &nanos.to_le_bytes());
    }
}

/// Behind the code: the payloads of the `saga_created` and the `saga_step_added` that would begin a saga of
/// the definition, whose id, coordinator and nonce are 0, each behind its length u32.
pub(super) fn put_definition(tags: &mut Tags<'_>, definition: &Definition) {
    let mut value = vec![SAGA];
    let nobody = CoordinatorId([0; 32]);
    for event in saga::Saga::admission(definition, nobody, 0, None) {
        if event != saga::Event::ExecuteStart {
            let mut payload = Vec::new();
            encode_saga(OperationId(0), &event, &mut payload);
            put_long(&payload, &mut value);
        }
    }
    tags.put(tag::PERFORMER, &value);
}

pub(super) fn put_performer(tags: &mut Tags<'_>, terms: &saga::StepTerms) {
    match &terms.performer {
        Performer::Node => {}
        Performer::Transaction(branches) => {
            put_branches(tags, tag::PERFORMER, TRANSACTION, branches);
        }
        Performer::Saga(definition) => put_definition(tags, definition),
        _ => unreachable!("this version knows no other performer"),
    }
    match &terms.undo {
        Undo::Call => {}
        Undo::Transaction(branches) => put_branches(tags, tag::UNDO, TRANSACTION, branches),
        Undo::Reverse => {
            tags.put(tag::UNDO, &[SAGA]);
        }
        _ => unreachable!("this version knows no other undo"),
    }
    if let Some(attempts) = terms.attempts {
        tags.put(tag::ATTEMPTS, &attempts.to_le_bytes());
    }
}

pub(super) fn put_order(tags: &mut Tags<'_>, order: &saga::Order) {
    let who = &order.who.as_bytes()[..order.who.len().min(usize::from(u16::MAX))];
    let head = u16::try_from(who.len()).expect("cut to fit").to_le_bytes();
    let what = [order.what.code()];
    tags.put(tag::ORDER, &[&what[..], &head, who, order.why.as_bytes()].concat());
    match &order.what {
        saga::What::Override { body } => _ = tags.put(tag::BODY, body),
        saga::What::Instead { branches } => put_branches(tags, tag::UNDO, TRANSACTION, branches),
        _ => {}
    }
}

/// Writes the payload of a saga's event, and says which it is.
pub fn encode_saga(id: OperationId, event: &saga::Event, out: &mut Vec<u8>) -> EventType {
    use saga::Event;
    match event {
        Event::Created { coordinator, nonce, request_key, terms } => {
            let prefix = Fixed::<60>::of(id).put(&coordinator.0).put(&[EXTENSION_VERSION]);
            let mut tags = prefix.tag(tag::NONCE, &nonce.to_le_bytes()).tags(out);
            if let Some(key) = request_key {
                tags.put(tag::REQUEST_KEY, key.as_bytes());
            }
            if let Some(saga::DefinitionName { name, version }) = &terms.definition {
                let named = [&version.to_le_bytes()[..], name.as_str().as_bytes()].concat();
                tags.put(tag::DEFINITION, &named);
            }
            if let Some(fingerprint) = terms.fingerprint {
                tags.fixed(tag::FINGERPRINT, &fingerprint.to_le_bytes());
            }
            put_timeout(&mut tags, terms.timeout);
            if let Some(parent) = terms.parent {
                tags.put(tag::PARENT, &parent_bytes(parent));
            }
            EventType::SAGA_CREATED
        }
        Event::StepAdded { step, action, dependencies, node, body, terms } => {
            let prefix = Fixed::<14>::of(id).put(&step.to_le_bytes()).put(&[action.code()]);
            let mut tags = prefix.put(&[EXTENSION_VERSION]).tags(out);
            if let Some(dependencies) = dependencies {
                tags.numbers(tag::DEPENDENCIES, dependencies);
            }
            tags.fixed(tag::NODE, &node.0).put(tag::BODY, body);
            if terms.kind != saga::StepKind::Compensatable {
                tags.put(tag::KIND, &[terms.kind.code()]);
            }
            put_timeout(&mut tags, terms.timeout);
            if let Some(name) = &terms.action_name {
                tags.put(tag::ACTION_NAME, name.as_str().as_bytes());
            }
            if let Some(name) = &terms.undo_name {
                tags.put(tag::UNDO_NAME, name.as_str().as_bytes());
            }
            if !terms.inputs.is_empty() {
                tags.numbers(tag::INPUTS, &terms.inputs);
            }
            if let Some(output) = terms.output {
                tags.put(tag::OUTPUT_TYPE, &[output.code()]);
            }
            put_performer(&mut tags, terms);
            EventType::SAGA_STEP_ADDED
        }
        Event::ExecuteStart => {
            words(out, id, &[]);
            EventType::SAGA_EXECUTE_START
        }
        Event::StepSucceeded { step, output } => {
            Fixed::<12>::of(id).put(&step.to_le_bytes()).append(out);
            if let Some(output) = output {
                put_output(&mut Tags::behind(out), output);
            }
            EventType::SAGA_STEP_SUCCEEDED
        }
        Event::StepFailed { step, error_code, effect } => {
            words(out, id, &[*step, *error_code]);
            if *effect == FailedEffect::Maybe {
                Tags::behind(out).put(tag::EFFECT, &[1]);
            }
            EventType::SAGA_STEP_FAILED
        }
        Event::CompensationStart { cause } => {
            words(out, id, &[cause.unwrap_or(u32::MAX)]);
            EventType::SAGA_COMPENSATION_START
        }
        Event::CompensationSucceeded { step, heuristic } => {
            words(out, id, &[*step]);
            if *heuristic {
                Tags::behind(out).put(tag::HEURISTIC, &[1]);
            }
            EventType::SAGA_COMPENSATION_SUCCEEDED
        }
        Event::CompensationFailed { step, attempt, note } => {
            words(out, id, &[*step, *attempt]);
            match note {
                saga::AttemptNote::Retried => {}
                saga::AttemptNote::Parked => {
                    Tags::behind(out).put(tag::PARKED, &[1]);
                }
                saga::AttemptNote::Ordered(order) => put_order(&mut Tags::behind(out), order),
            }
            EventType::SAGA_COMPENSATION_FAILED
        }
        Event::Completed => {
            words(out, id, &[]);
            EventType::SAGA_COMPLETED
        }
        Event::Compensated => {
            words(out, id, &[]);
            EventType::SAGA_COMPENSATED
        }
        Event::Aborted => {
            words(out, id, &[]);
            EventType::SAGA_ABORTED
        }
    }
}

/// How long the payload of a step's success is that brings nothing.
pub(crate) const SUCCESS_PAYLOAD_BYTES: usize = 12;

/// Writes the payload of a saga's end that an operator says of one in doubt, and says which event it is. Read
/// again it is an end like any other.
pub fn encode_saga_end(
    id: OperationId,
    completed: bool,
    audit: &Audit,
    out: &mut Vec<u8>,
) -> EventType {
    words(out, id, &[]);
    put_audit(&mut Tags::behind(out), audit);
    if completed { EventType::SAGA_COMPLETED } else { EventType::SAGA_COMPENSATED }
}

/// `depth`: how many definitions the payload lies in.
pub(super) fn decode_saga(
    event: EventType,
    mut reader: Reader<'_>,
    depth: u32,
) -> Result<saga::Event, CodecError> {
    use saga::Event;
    Ok(match event {
        EventType::SAGA_CREATED => {
            let coordinator = reader.coordinator()?;
            let tags = reader.extensions()?;
            let nonce = tags.array(tag::NONCE, event)?.map_or(0, u128::from_le_bytes);
            let definition = match tags.find(tag::DEFINITION) {
                None => None,
                Some(value) => {
                    let mut value = Reader { event, rest: value };
                    let version = value.u32()?;
                    Some(saga::DefinitionName { name: label(value.rest, event)?, version })
                }
            };
            let fingerprint = tags.array(tag::FINGERPRINT, event)?.map(u128::from_le_bytes);
            let (timeout, parent) = (tags.timeout(event)?, tags.parent(event)?);
            let terms = saga::SagaTerms { definition, fingerprint, timeout, parent };
            Event::Created { coordinator, nonce, request_key: tags.request_key(event)?, terms }
        }
        EventType::SAGA_STEP_ADDED => {
            let step = reader.u32()?;
            let [action] = reader.array()?;
            let tags = reader.extensions()?;
            let dependencies = tags.numbers(tag::DEPENDENCIES, event)?.map(Into::into);
            let node = NodeName(tags.array(tag::NODE, event)?.unwrap_or_default());
            let (action, body) = (Action::from_code(action), tags.bytes(tag::BODY));
            let kind = match tags.array(tag::KIND, event)? {
                None => saga::StepKind::Compensatable,
                Some([code]) => saga::StepKind::from_code(code).ok_or(CodecError::Value(event))?,
            };
            let output = match tags.array(tag::OUTPUT_TYPE, event)? {
                None => None,
                Some([code]) => {
                    Some(saga::ValueType::from_code(code).ok_or(CodecError::Value(event))?)
                }
            };
            let terms = saga::StepTerms {
                kind,
                timeout: tags.timeout(event)?,
                action_name: tags.label(tag::ACTION_NAME, event)?,
                undo_name: tags.label(tag::UNDO_NAME, event)?,
                inputs: tags.numbers(tag::INPUTS, event)?.unwrap_or_default(),
                output,
                performer: tags.performer(event, depth)?,
                undo: tags.undo(event)?,
                attempts: tags.array(tag::ATTEMPTS, event)?.map(u32::from_le_bytes),
            };
            Event::StepAdded { step, action, dependencies, node, body, terms: terms.into() }
        }
        EventType::SAGA_EXECUTE_START => reader.bare(Event::ExecuteStart)?,
        EventType::SAGA_STEP_SUCCEEDED => {
            let step = reader.u32()?;
            Event::StepSucceeded { step, output: reader.extensions()?.output(event)? }
        }
        EventType::SAGA_STEP_FAILED => {
            let (step, error_code) = (reader.u32()?, reader.u32()?);
            let effect = match reader.extensions()?.array(tag::EFFECT, event)? {
                None | Some([0]) => FailedEffect::None,
                Some([1]) => FailedEffect::Maybe,
                Some(_) => return Err(CodecError::Value(event)),
            };
            Event::StepFailed { step, error_code, effect }
        }
        EventType::SAGA_COMPENSATION_START => {
            let cause = reader.u32()?;
            reader.bare(Event::CompensationStart { cause: (cause != u32::MAX).then_some(cause) })?
        }
        EventType::SAGA_COMPENSATION_SUCCEEDED => {
            let step = reader.u32()?;
            let heuristic = reader.extensions()?.flag(tag::HEURISTIC, event)?;
            Event::CompensationSucceeded { step, heuristic }
        }
        EventType::SAGA_COMPENSATION_FAILED => {
            let (step, attempt) = (reader.u32()?, reader.u32()?);
            let tags = reader.extensions()?;
            let note = match (tags.order(event)?, tags.flag(tag::PARKED, event)?) {
                (Some(order), _) => saga::AttemptNote::Ordered(order),
                (None, true) => saga::AttemptNote::Parked,
                (None, false) => saga::AttemptNote::Retried,
            };
            Event::CompensationFailed { step, attempt, note }
        }
        EventType::SAGA_COMPLETED => reader.bare(Event::Completed)?,
        EventType::SAGA_COMPENSATED => reader.bare(Event::Compensated)?,
        EventType::SAGA_ABORTED => reader.bare(Event::Aborted)?,
        _ => return Err(CodecError::UnknownEvent(event)),
    })
}
