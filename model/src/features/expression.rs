//! Physical features by expression: `torque * speed`, `(process - air) / limit`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Deeper ones are nobody's physics.
const DEPTH_MAX: usize = 32;
pub const EXPRESSION_BYTES_MAX: usize = 1_000;

/// Sums, differences, products and ratios of names and numbers.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression {
    text: String,
    root: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Number(f64),
    Name(String),
    Of(Box<Node>, char, Box<Node>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {reason} at character {at}; allowed: names, numbers, + - * / and ( )")]
pub struct InvalidExpression {
    text: String,
    reason: &'static str,
    at: usize,
}

impl Expression {
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        let wrong = |(reason, at)| InvalidExpression { text: text.chars().take(80).collect(), reason, at };
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(wrong(("too long", EXPRESSION_BYTES_MAX)));
        }
        let mut parser = Parser { text: text.chars().collect(), at: 0 };
        let root = parser.sum(0).map_err(wrong)?;
        parser.skip_blanks();
        match parser.at < parser.text.len() {
            true => Err(wrong(("something more", parser.at))),
            false => Ok(Expression { text: text.into(), root }),
        }
    }

    /// Names that it refers to.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.names(&mut names);
        names
    }

    /// NaN where a value is missing, or where it is a division by zero.
    pub fn value(&self, of: &dyn Fn(&str) -> f64) -> f64 {
        let value = self.root.value(of);
        if value.is_finite() { value } else { f64::NAN }
    }
}

impl Node {
    fn names<'a>(&'a self, to: &mut Vec<&'a str>) {
        match self {
            Node::Number(_) => {}
            Node::Name(name) => to.push(name),
            Node::Of(a, _, b) => {
                a.names(to);
                b.names(to);
            }
        }
    }

    fn value(&self, of: &dyn Fn(&str) -> f64) -> f64 {
        match self {
            Node::Number(number) => *number,
            Node::Name(name) => of(name),
            Node::Of(a, sign, b) => {
                let (a, b) = (a.value(of), b.value(of));
                match sign {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ => a / b,
                }
            }
        }
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
}

type Parsed = Result<Node, (&'static str, usize)>;

impl Parser {
    fn skip_blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    fn sign(&mut self, signs: [char; 2]) -> Option<char> {
        self.skip_blanks();
        let sign = self.text.get(self.at).copied().filter(|c| signs.contains(c))?;
        self.at += 1;
        Some(sign)
    }

    fn word(&mut self, belongs: fn(&char) -> bool) -> String {
        let word: String = self.text[self.at..].iter().take_while(|c| belongs(c)).collect();
        self.at += word.chars().count();
        word
    }

    fn sum(&mut self, depth: usize) -> Parsed {
        let mut sum = self.product(depth)?;
        while let Some(sign) = self.sign(['+', '-']) {
            sum = Node::Of(Box::new(sum), sign, Box::new(self.product(depth)?));
        }
        Ok(sum)
    }

    fn product(&mut self, depth: usize) -> Parsed {
        let mut product = self.factor(depth)?;
        while let Some(sign) = self.sign(['*', '/']) {
            product = Node::Of(Box::new(product), sign, Box::new(self.factor(depth)?));
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Parsed {
        if depth > DEPTH_MAX {
            return Err(("too deep", self.at));
        }
        self.skip_blanks();
        let start = self.at;
        match self.text.get(start) {
            Some('(') => {
                self.at += 1;
                let inner = self.sum(depth + 1)?;
                self.sign([')', ')']).map(|_| inner).ok_or(("`)` was expected", self.at))
            }
            Some(c) if c.is_ascii_digit() => {
                let number = self.word(|c| c.is_ascii_digit() || *c == '.');
                number.parse().map(Node::Number).map_err(|_| ("not a number", start))
            }
            Some(c) if c.is_ascii_alphabetic() => Ok(Node::Name(self.word(|c| c.is_ascii_alphanumeric() || *c == '_'))),
            _ => Err(("a name, a number or `(` was expected", start)),
        }
    }
}

impl TryFrom<String> for Expression {
    type Error = InvalidExpression;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> f64 {
        let of = |name: &str| match name {
            "a" => 6.0,
            "b_2" => 4.0,
            _ => f64::NAN,
        };
        Expression::parse(text).unwrap().value(&of)
    }

    #[test]
    fn expressions_are_worked_out_as_people_do() {
        assert_eq!(value("a - b_2 - 1"), 1.0);
        assert_eq!(value("a + b_2 * 2"), 14.0);
        assert_eq!(value("(a+b_2) / 2.5 / 2"), 2.0);
        assert!(value("a * unknown").is_nan() && value("a / (b_2 - 4)").is_nan());
        assert_eq!(Expression::parse("a * (b - a)").unwrap().names(), ["a", "b", "a"]);
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        let error = |text: &str| Expression::parse(text).unwrap_err().to_string();
        assert!(error("a +").starts_with("`a +`: a name, a number or `(` was expected at character 3"));
        assert!(error("a b").contains("something more at character 2"));
        assert!(error("(a").contains("`)` was expected"));
        assert!(error("1.2.3").contains("not a number"));
        assert!(error(&"(".repeat(100)).contains("too deep"));
        assert!(error(&"a".repeat(2_000)).contains("too long"));
    }
}
