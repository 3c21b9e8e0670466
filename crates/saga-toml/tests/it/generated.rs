// Made from order.toml by `trinity saga generate`: change that file, and make it anew.

/// The steps of the saga `order`, version 3, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderStep {
    /// `reserve`
    Reserve = 0,
    /// `check-address`
    CheckAddress = 1,
    /// `charge`
    Charge = 2,
    /// `ship`
    Ship = 3,
    /// `thank`
    Thank = 4,
}

impl OrderStep {
    /// Every step; a step's number is its place here.
    pub const ALL: [OrderStep; 5] = [
        OrderStep::Reserve,
        OrderStep::CheckAddress,
        OrderStep::Charge,
        OrderStep::Ship,
        OrderStep::Thank,
    ];

    /// The step of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// The saga `order`, version 3: `place` says where each step runs, and what it is asked.
#[must_use]
pub fn order_definition(
    mut place: impl FnMut(OrderStep) -> (base::NodeName, std::sync::Arc<[u8]>),
) -> saga::Definition {
    let label = |name| saga::Label::new(name).expect("the generator has checked its length");
    let mut builder = saga::Definition::builder();
    builder.limits(saga::Limits { steps_max: 5, dependencies_max: 2, depth_max: 1 });
    builder.name(label("order"), 3);
    builder.timeout(std::time::Duration::from_millis(300000));
    let (node, body) = place(OrderStep::Reserve);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("stock.reserve"))
            .kind(saga::StepKind::Compensatable)
            .undone_by(label("stock.release"))
            .gives(saga::ValueType::U64)
    );
    let (node, body) = place(OrderStep::CheckAddress);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("address.check"))
            .kind(saga::StepKind::ReadOnly)
            .timeout(std::time::Duration::from_millis(1500))
            .gives(saga::ValueType::Bool)
    );
    let (node, body) = place(OrderStep::Charge);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("card.charge"))
            .kind(saga::StepKind::Pivot)
            .gives(saga::ValueType::Text)
            .after(0)
            .after(1)
            .takes(0, saga::ValueType::U64)
            .takes(1, saga::ValueType::Bool)
    );
    let (node, body) = place(OrderStep::Ship);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("parcel.send"))
            .kind(saga::StepKind::Retriable)
            .after(2)
            .takes(0, saga::ValueType::U64)
            .takes(2, saga::ValueType::Text)
    );
    let (node, body) = place(OrderStep::Thank);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("thank"))
            .kind(saga::StepKind::Retriable)
            .after(3)
            .takes(2, saga::ValueType::Text)
    );
    builder.build().expect("the generator has built it once")
}

/// What became of a step of `order` that may be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderAnswer<T> {
    /// It is done, and durable with its token.
    Done(T),
    /// It is refused for good, and that is durable with its token.
    Refused {
        /// The reason, for the log.
        code: u32,
    },
    /// Not now: it is called again.
    NotNow,
}

/// The code of the steps of `order`. Each is called again with the same token until its answer
/// arrives, so token and effect belong in one local transaction.
pub trait OrderActions {
    /// The action `stock.reserve`, compensatable.
    fn do_reserve(&mut self, token: base::Token, body: &[u8]) -> OrderAnswer<u64>;
    /// The action `stock.release`, which undoes it, whether or not it ever ran. A refusal fails
    /// this attempt only.
    fn undo_reserve(&mut self, token: base::Token, body: &[u8], given: Option<u64>) -> OrderAnswer<()>;
    /// The action `address.check`, read-only.
    fn do_check_address(&mut self, token: base::Token, body: &[u8]) -> OrderAnswer<bool>;
    /// The action `card.charge`, pivot.
    fn do_charge(&mut self, token: base::Token, body: &[u8], from_reserve: u64, from_check_address: bool) -> OrderAnswer<String>;
    /// The action `parcel.send`, retriable; `None`: not now.
    fn do_ship(&mut self, token: base::Token, body: &[u8], from_reserve: u64, from_charge: String) -> Option<()>;
    /// The action `thank`, retriable; `None`: not now.
    fn do_thank(&mut self, token: base::Token, body: &[u8], from_charge: String) -> Option<()>;
}

/// Calls the code of a step of `order`, or of its compensation, with what it is given, and says
/// what became of it. What is not given as the file says is Unknown: it is called again.
pub fn call_order(
    actions: &mut impl OrderActions,
    step: u32,
    direction: saga::Direction,
    token: base::Token,
    body: &[u8],
    inputs: &[saga::StepInput],
) -> saga::Outcome {
    // Not every saga has each of these.
    let _ = inputs;
    match (OrderStep::of(step), direction) {
        (Some(OrderStep::Reserve), saga::Direction::Forward) => {
            answered(actions.do_reserve(token, body), |value| done_with(value.to_le_bytes()))
        }
        (Some(OrderStep::Reserve), saga::Direction::Backward) => {
            answered(actions.undo_reserve(token, body, given(inputs, 0).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))), done)
        }
        (Some(OrderStep::CheckAddress), saga::Direction::Forward) => {
            answered(actions.do_check_address(token, body), |value| done_with([u8::from(value)]))
        }
        (Some(OrderStep::Charge), saga::Direction::Forward) => {
            let Some(from_reserve) = given(inputs, 0).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes)) else {
                return saga::Outcome::Unknown;
            };
            let Some(from_check_address) = given(inputs, 1).and_then(|bytes| match bytes { [0] => Some(false), [1] => Some(true), _ => None }) else {
                return saga::Outcome::Unknown;
            };
            answered(actions.do_charge(token, body, from_reserve, from_check_address), |value| done_with(value.into_bytes()))
        }
        (Some(OrderStep::Ship), saga::Direction::Forward) => {
            let Some(from_reserve) = given(inputs, 0).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes)) else {
                return saga::Outcome::Unknown;
            };
            let Some(from_charge) = given(inputs, 2).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()) else {
                return saga::Outcome::Unknown;
            };
            actions.do_ship(token, body, from_reserve, from_charge).map_or(saga::Outcome::Unknown, done)
        }
        (Some(OrderStep::Thank), saga::Direction::Forward) => {
            let Some(from_charge) = given(inputs, 2).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()) else {
                return saga::Outcome::Unknown;
            };
            actions.do_thank(token, body, from_charge).map_or(saga::Outcome::Unknown, done)
        }
        // No saga of this definition calls anything else.
        _ => saga::Outcome::Unknown,
    }
}

fn done((): ()) -> saga::Outcome {
    saga::Outcome::Done
}

fn done_with(bytes: impl Into<std::sync::Arc<[u8]>>) -> saga::Outcome {
    saga::Outcome::DoneWith(saga::Output::Inline(bytes.into()))
}

fn answered<T>(answer: OrderAnswer<T>, done: impl Fn(T) -> saga::Outcome) -> saga::Outcome {
    match answer {
        OrderAnswer::Done(value) => done(value),
        OrderAnswer::Refused { code } => saga::Outcome::Refused { code },
        OrderAnswer::NotNow => saga::Outcome::Unknown,
    }
}

/// What a step gave, if it is at hand: what is known by its hash alone is not.
fn given(inputs: &[saga::StepInput], step: u32) -> Option<&[u8]> {
    let input = inputs.iter().find(|input| input.step == step)?;
    match &input.output {
        saga::Output::Inline(bytes) => Some(bytes),
        saga::Output::Hashed { .. } => None,
    }
}
