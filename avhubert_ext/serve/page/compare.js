// Compare two sequences of words.

// The words of a text as written, without tokens that are not words.
export function wordsOf(text) {
  return text.split(/\s+/).filter(bare);
}

// A word as it is compared: in upper case, without punctuation.
function bare(word) {
  return word.toUpperCase().replace(/[^\p{L}\p{N}']/gu, "");
}

// The fewest edits from `saidWords` to `heardWords`, in order: { kind, word (its number in
// heardWords), said }. The kind is "same", "wrong" (a substitution or insertion), or "missing".
export function align(saidWords, heardWords) {
  const said = saidWords.map(bare);
  const heard = heardWords.map(bare);
  const cost = Array.from({ length: said.length + 1 }, (_, i) =>
    Array.from({ length: heard.length + 1 }, (_, j) => (i && j ? 0 : i + j)));
  for (let i = 1; i <= said.length; i++) {
    for (let j = 1; j <= heard.length; j++) {
      const changed = cost[i - 1][j - 1] + (said[i - 1] !== heard[j - 1]);
      cost[i][j] = Math.min(changed, cost[i - 1][j] + 1, cost[i][j - 1] + 1);
    }
  }
  const steps = [];
  let [i, j] = [said.length, heard.length];
  while (i || j) {
    const same = i && j && said[i - 1] === heard[j - 1];
    if (i && j && cost[i][j] === cost[i - 1][j - 1] + !same) {
      steps.push({ kind: same ? "same" : "wrong", word: --j, said: saidWords[--i] });
    } else if (j && cost[i][j] === cost[i][j - 1] + 1) {
      steps.push({ kind: "wrong", word: --j });
    } else {
      steps.push({ kind: "missing", said: saidWords[--i] });
    }
  }
  return steps.reverse();
}

export function edits(steps) {
  return steps.filter((step) => step.kind !== "same").length;
}
