// Made from trip.toml by `trinity saga generate`: change that file, and make it anew.

/// The steps of the saga `trip`, version 1, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripStep {
    /// `hold`
    Hold = 0,
    /// `deposit`
    Deposit = 1,
    /// `book`
    Book = 2,
    /// `pay`
    Pay = 3,
    /// `tell`
    Tell = 4,
}

impl TripStep {
    /// Every step; a step's number is its place here.
    pub const ALL: [TripStep; 5] = [
        TripStep::Hold,
        TripStep::Deposit,
        TripStep::Book,
        TripStep::Pay,
        TripStep::Tell,
    ];

    /// The step of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// The saga `trip`, version 1: `place` says where each step runs, and what it is asked, `branch` what a participant of a step's transaction is asked, or of its undo's, `inner` which saga a step is: see the modules.
#[must_use]
pub fn trip_definition(
    mut place: impl FnMut(TripStep) -> (base::NodeName, std::sync::Arc<[u8]>),
    mut branch: impl FnMut(TripStep, &'static str, bool) -> saga::Branch,
    mut inner: impl FnMut(TripStep) -> saga::Definition,
) -> saga::Definition {
    let label = |name| saga::Label::new(name).expect("the generator has checked its length");
    let mut builder = saga::Definition::builder();
    builder.limits(saga::Limits { steps_max: 5, dependencies_max: 2, depth_max: 2 });
    builder.name(label("trip"), 1);
    let (node, body) = place(TripStep::Hold);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("hold"))
            .kind(saga::StepKind::Compensatable)
            .undone_by(label("hold.release"))
            .gives(saga::ValueType::U64)
    );
    let (node, body) = place(TripStep::Deposit);
    builder.step(
        saga::Step::transaction(["traveller", "agency"].map(|who| branch(TripStep::Deposit, who, false)))
            .undone_at(node, body)
            .kind(saga::StepKind::Compensatable)
            .attempts(5)
            .undone_by(label("deposit.return"))
            .after(0)
    );
    builder.step(
        saga::Step::saga(inner(TripStep::Book))
            .kind(saga::StepKind::Compensatable)
            .gives(saga::ValueType::Text)
            .after(0)
    );
    builder.step(
        saga::Step::transaction(["traveller", "agency", "airline"].map(|who| branch(TripStep::Pay, who, false)))
            .kind(saga::StepKind::Pivot)
            .after(1)
            .after(2)
    );
    builder.step(
        saga::Step::saga(inner(TripStep::Tell))
            .kind(saga::StepKind::Retriable)
            .after(3)
    );
    builder.build().expect("the generator has built it once")
}

/// What became of a step of `trip` that may be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TripAnswer<T> {
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

/// The code of the steps of `trip`. Each is called again with the same token until its answer
/// arrives, so token and effect belong in one local transaction.
pub trait TripActions {
    /// The action `hold`, compensatable.
    fn do_hold(&mut self, token: base::Token, body: &[u8]) -> TripAnswer<u64>;
    /// The action `hold.release`, which undoes it, whether or not it ever ran. A refusal fails
    /// this attempt only.
    fn undo_hold(&mut self, token: base::Token, body: &[u8], given: Option<u64>) -> TripAnswer<()>;
    /// The action `deposit.return`, which undoes what a transaction or a saga has done. A refusal fails
    /// this attempt only.
    fn undo_deposit(&mut self, token: base::Token, body: &[u8]) -> TripAnswer<()>;
}

/// Calls the code of a step of `trip`, or of its compensation, with what it is given, and says
/// what became of it. What is not given as the file says is Unknown: it is called again.
pub fn call_trip(
    actions: &mut impl TripActions,
    step: u32,
    direction: saga::Direction,
    token: base::Token,
    body: &[u8],
    inputs: &[saga::StepInput],
) -> saga::Outcome {
    // Not every saga has each of these.
    let _ = inputs;
    match (TripStep::of(step), direction) {
        (Some(TripStep::Hold), saga::Direction::Forward) => {
            answered(actions.do_hold(token, body), |value| done_with(value.to_le_bytes()))
        }
        (Some(TripStep::Hold), saga::Direction::Backward) => {
            answered(actions.undo_hold(token, body, given(inputs, 0).and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))), done)
        }
        (Some(TripStep::Deposit), saga::Direction::Backward) => {
            answered(actions.undo_deposit(token, body), done)
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

fn answered<T>(answer: TripAnswer<T>, done: impl Fn(T) -> saga::Outcome) -> saga::Outcome {
    match answer {
        TripAnswer::Done(value) => done(value),
        TripAnswer::Refused { code } => saga::Outcome::Refused { code },
        TripAnswer::NotNow => saga::Outcome::Unknown,
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

/// The saga `booking`, a step of `trip`.
pub mod booking {

/// The steps of the saga `booking`, version 4, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookingStep {
    /// `points`
    Points = 0,
    /// `seat`
    Seat = 1,
}

impl BookingStep {
    /// Every step; a step's number is its place here.
    pub const ALL: [BookingStep; 2] = [
        BookingStep::Points,
        BookingStep::Seat,
    ];

    /// The step of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// The saga `booking`, version 4: `place` says where each step runs, and what it is asked, `branch` what a participant of a step's transaction is asked, or of its undo's.
#[must_use]
pub fn booking_definition(
    mut place: impl FnMut(BookingStep) -> (base::NodeName, std::sync::Arc<[u8]>),
    mut branch: impl FnMut(BookingStep, &'static str, bool) -> saga::Branch,
) -> saga::Definition {
    let label = |name| saga::Label::new(name).expect("the generator has checked its length");
    let mut builder = saga::Definition::builder();
    builder.limits(saga::Limits { steps_max: 2, dependencies_max: 1, depth_max: 1 });
    builder.name(label("booking"), 4);
    builder.timeout(std::time::Duration::from_millis(120000));
    builder.step(
        saga::Step::transaction(["airline"].map(|who| branch(BookingStep::Points, who, false)))
            .undone_by_transaction(["airline"].map(|who| branch(BookingStep::Points, who, true)))
            .kind(saga::StepKind::Compensatable)
    );
    let (node, body) = place(BookingStep::Seat);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("seat"))
            .kind(saga::StepKind::Compensatable)
            .undone_by(label("seat.release"))
            .gives(saga::ValueType::Text)
            .after(0)
    );
    builder.build().expect("the generator has built it once")
}

/// What became of a step of `booking` that may be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BookingAnswer<T> {
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

/// The code of the steps of `booking`. Each is called again with the same token until its answer
/// arrives, so token and effect belong in one local transaction.
pub trait BookingActions {
    /// The action `seat`, compensatable.
    fn do_seat(&mut self, token: base::Token, body: &[u8]) -> BookingAnswer<String>;
    /// The action `seat.release`, which undoes it, whether or not it ever ran. A refusal fails
    /// this attempt only.
    fn undo_seat(&mut self, token: base::Token, body: &[u8], given: Option<String>) -> BookingAnswer<()>;
}

/// Calls the code of a step of `booking`, or of its compensation, with what it is given, and says
/// what became of it. What is not given as the file says is Unknown: it is called again.
pub fn call_booking(
    actions: &mut impl BookingActions,
    step: u32,
    direction: saga::Direction,
    token: base::Token,
    body: &[u8],
    inputs: &[saga::StepInput],
) -> saga::Outcome {
    // Not every saga has each of these.
    let _ = inputs;
    match (BookingStep::of(step), direction) {
        (Some(BookingStep::Seat), saga::Direction::Forward) => {
            answered(actions.do_seat(token, body), |value| done_with(value.into_bytes()))
        }
        (Some(BookingStep::Seat), saga::Direction::Backward) => {
            answered(actions.undo_seat(token, body, given(inputs, 1).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())), done)
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

fn answered<T>(answer: BookingAnswer<T>, done: impl Fn(T) -> saga::Outcome) -> saga::Outcome {
    match answer {
        BookingAnswer::Done(value) => done(value),
        BookingAnswer::Refused { code } => saga::Outcome::Refused { code },
        BookingAnswer::NotNow => saga::Outcome::Unknown,
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
}

/// The saga `letters`, a step of `trip`.
pub mod letters {

/// The steps of the saga `letters`, version 1, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettersStep {
    /// `send`
    Send = 0,
}

impl LettersStep {
    /// Every step; a step's number is its place here.
    pub const ALL: [LettersStep; 1] = [
        LettersStep::Send,
    ];

    /// The step of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// The saga `letters`, version 1: `place` says where each step runs, and what it is asked.
#[must_use]
pub fn letters_definition(
    mut place: impl FnMut(LettersStep) -> (base::NodeName, std::sync::Arc<[u8]>),
) -> saga::Definition {
    let label = |name| saga::Label::new(name).expect("the generator has checked its length");
    let mut builder = saga::Definition::builder();
    builder.limits(saga::Limits { steps_max: 1, dependencies_max: 0, depth_max: 1 });
    builder.name(label("letters"), 1);
    let (node, body) = place(LettersStep::Send);
    builder.step(
        saga::Step::new(saga::Action::Custom, node, body)
            .named(label("send"))
            .kind(saga::StepKind::Pivot)
    );
    builder.build().expect("the generator has built it once")
}

/// What became of a step of `letters` that may be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LettersAnswer<T> {
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

/// The code of the steps of `letters`. Each is called again with the same token until its answer
/// arrives, so token and effect belong in one local transaction.
pub trait LettersActions {
    /// The action `send`, pivot.
    fn do_send(&mut self, token: base::Token, body: &[u8]) -> LettersAnswer<()>;
}

/// Calls the code of a step of `letters`, or of its compensation, with what it is given, and says
/// what became of it. What is not given as the file says is Unknown: it is called again.
pub fn call_letters(
    actions: &mut impl LettersActions,
    step: u32,
    direction: saga::Direction,
    token: base::Token,
    body: &[u8],
    inputs: &[saga::StepInput],
) -> saga::Outcome {
    // Not every saga has each of these.
    let _ = inputs;
    match (LettersStep::of(step), direction) {
        (Some(LettersStep::Send), saga::Direction::Forward) => {
            answered(actions.do_send(token, body), done)
        }
        // No saga of this definition calls anything else.
        _ => saga::Outcome::Unknown,
    }
}

fn done((): ()) -> saga::Outcome {
    saga::Outcome::Done
}

fn answered<T>(answer: LettersAnswer<T>, done: impl Fn(T) -> saga::Outcome) -> saga::Outcome {
    match answer {
        LettersAnswer::Done(value) => done(value),
        LettersAnswer::Refused { code } => saga::Outcome::Refused { code },
        LettersAnswer::NotNow => saga::Outcome::Unknown,
    }
}
}
