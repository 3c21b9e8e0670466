//! Values that copies of a world share until one of them changes them: so a copy costs what is changed
//! afterwards, and not what the world holds.

use std::ops::{Deref, DerefMut, Index, IndexMut};
use std::rc::Rc;

/// One value, shared by its copies until it is changed through one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared<T>(Rc<T>);

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Shared(Rc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        Rc::make_mut(&mut self.0)
    }
}

/// Many values, each of them shared for itself.
#[derive(Clone, Debug)]
pub struct SharedVec<T>(Vec<Rc<T>>);

impl<T> Default for SharedVec<T> {
    fn default() -> Self {
        SharedVec(Vec::new())
    }
}

impl<T> FromIterator<T> for SharedVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        SharedVec(values.into_iter().map(Rc::new).collect())
    }
}

impl<T> SharedVec<T> {
    /// So many, all the same one as long as nobody changes them.
    pub fn alike(value: T, count: usize) -> SharedVec<T> {
        let one = Rc::new(value);
        SharedVec(vec![one; count])
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value at a place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&T> {
        self.0.get(at).map(|value| &**value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|value| &**value)
    }
}

impl<T: Clone> SharedVec<T> {
    /// The value at a place, to be changed.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.0.get_mut(at).map(Rc::make_mut)
    }

    /// All of them in order, to be changed: afterwards none is shared.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(Rc::make_mut)
    }
}

impl<T> Index<usize> for SharedVec<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: usize) -> &T {
        &self.0[at]
    }
}

impl<T: Clone> IndexMut<usize> for SharedVec<T> {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut T {
        Rc::make_mut(&mut self.0[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_neither_has_changed() {
        let mut all: SharedVec<String> = ["a", "b", "c"].map(str::to_owned).into_iter().collect();
        let mut copy = all.clone();
        all[0].push('1');
        copy[2].push('2');
        if let Some(value) = copy.get_mut(7) {
            value.clear();
        }
        assert!(all.iter().eq(["a1", "b", "c"]) && copy.iter().eq(["a", "b", "c2"]));
        let same = |at: usize| std::ptr::eq(&raw const all[at], &raw const copy[at]);
        assert_eq!([0, 1, 2].map(same), [false, true, false]);
        copy.iter_mut().for_each(|value| value.push('3'));
        assert!(all.iter().eq(["a1", "b", "c"]) && copy.iter().eq(["a3", "b3", "c23"]));
        assert_eq!((copy.len(), all.get(3)), (3, None));
        let mut alike = SharedVec::alike(7, 3);
        alike[1] += 1;
        assert!(alike.iter().eq([&7, &8, &7]));
    }

    #[test]
    fn a_value_that_is_changed_is_another_one_in_the_copy() {
        let one = Shared::from(vec![1]);
        let mut other = one.clone();
        assert!(std::ptr::eq(&raw const *one, &raw const *other));
        other.push(2);
        assert_eq!((&*one, &*other), (&vec![1], &vec![1, 2]));
    }
}
