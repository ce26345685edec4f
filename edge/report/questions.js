// The question browser: searches, filters and shows answers, coloured token by token. Texts of models enter by textContent only.
"use strict";
// Deflated JSON in base64: a tenth of the room that thousands of answers would take as markup.
const unpack = async (section, name) => {
  const bytes = Uint8Array.from(atob(section.querySelector(`script.${name}`).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
};
const element = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) {
    made.textContent = text;
    made.dir = "auto"; // a text of a model or a file may run from right to left
  }
  return made;
};

class Browser {
  constructor(section, data) {
    this.data = data;
    this.find = (name) => section.querySelector(name);
    this.find(".hot").textContent = `${(this.data.hot / 100).toFixed(2)} nat and more`;
    this.fill();
    for (const name of [".search", ".category", ".outcome", ".differ"]) this.find(name)?.addEventListener("input", () => this.filter());
    this.filter();
    this.choose(0);
  }

  tokens(run, question) {
    const own = this.data.runs[run].answers[question][0];
    return own === 0 ? this.data.runs[0].answers[question][0] : own;
  }

  text(run, question) {
    const answer = this.data.runs[run].answers[question];
    return answer[6] === 0 ? this.tokens(run, question).map((token) => this.data.vocabulary[token]).join("") : answer[6];
  }

  fill() {
    const categories = [...new Set(this.data.questions.map((question) => question[2]))].filter(Boolean).sort();
    for (const category of categories) this.find(".category").append(Object.assign(new Option(category, category), { dir: "auto" }));
    this.items = this.data.questions.map(([index, question, category], at) => {
      const item = this.find(".list").appendChild(element("li"));
      const button = item.appendChild(element("button"));
      button.type = "button";
      button.append(element("span", "", question));
      button.append(element("small", "", `${index + 1}${category ? ` · ${category}` : ""}`));
      button.addEventListener("click", () => this.choose(at));
      const differs = this.data.runs.some((run) => !run.forced && run !== this.data.runs[0] && run.answers[at][0] !== 0);
      const outcome = (this.data.outcomes[0] && this.data.outcomes[0][at]) || "-";
      return { item, button, category, outcome, differs: differs ? "1" : "0", words: question.toLowerCase() };
    });
  }

  filter() {
    const words = this.find(".search").value.trim().toLowerCase();
    const category = this.find(".category").value;
    const differ = this.find(".differ")?.value ?? "";
    const outcome = this.find(".outcome")?.value ?? "";
    let count = 0;
    this.items.forEach((it, at) => {
      let kept = (!category || it.category === category) && (!differ || it.differs === differ) && (!outcome || it.outcome === outcome);
      if (kept && words && !it.words.includes(words)) {
        it.answers ??= this.data.runs.map((run, i) => (run.forced ? "" : this.text(i, at))).join("\n").toLowerCase();
        kept = it.answers.includes(words);
      }
      it.item.hidden = !kept;
      count += kept;
    });
    this.find(".count").textContent = `${count} of ${this.items.length} questions`;
  }

  choose(at) {
    if (this.current !== undefined) this.items[this.current].button.removeAttribute("aria-current");
    this.current = at;
    this.items[at].button.setAttribute("aria-current", "true");
    const [index, question, category] = this.data.questions[at];
    const heading = element("p", "question", question);
    const answers = this.data.runs.map((run, i) => this.answer(run, i, at));
    this.find(".answers").replaceChildren(heading, element("p", "small", `Question ${index + 1}${category ? `, ${category}` : ""}`), ...answers);
    this.find(".reading").textContent = "No token chosen.";
  }

  answer(run, i, at) {
    const [own, entropies, surprisals, top1, kl, reason, plain] = run.answers[at];
    const tokens = this.tokens(i, at);
    const box = element("section", "answer");
    box.append(element("h4", "", run.name));
    if (tokens.length === 0) {
      const why = this.data.reasons[reason] === "refused" ? "could not be asked" : `did not fit the context of ${this.data.context} positions`;
      box.append(element("p", "note", `This question ${why}, so there is no answer.`));
      return box;
    }
    const mean = entropies.reduce((a, b) => a + b, 0) / entropies.length / 100;
    const first = i === 0 || run.forced || own === 0 ? -1 : this.firstDifference(at, tokens);
    let summary = `${tokens.length} tokens, mean entropy ${mean.toFixed(2)} nat, ended by ${this.data.reasons[reason].replace("_", " ")}`;
    if (run.forced) summary += "; the reference’s tokens, coloured by this model’s entropy";
    else if (first >= 0) summary += `; first differs from ${this.data.runs[0].name} at token ${first + 1} (◆)`;
    else if (i > 0) summary += `; the same tokens as ${this.data.runs[0].name}`;
    const judged = this.data.outcomes[i] && this.data.outcomes[i][at];
    if (judged) summary += `; judged ${judged.replace("_", " ")} (${this.data.judges[i]} label)`;
    box.append(element("p", "small", summary));
    const line = box.appendChild(element("p", "tokens"));
    line.dir = "auto"; // the answer has one direction, not each token its own
    tokens.forEach((token, step) => {
      const text = this.data.vocabulary[token];
      const chance = top1 === 0 || top1[step] === 0 ? Math.exp(-surprisals[step] / 100) : (top1[step] - 1) / 100;
      let about = `token ${step + 1} ${JSON.stringify(text)}: entropy ${(entropies[step] / 100).toFixed(2)} nat, top-1 probability `
        + `${chance.toFixed(2)}, surprisal ${(surprisals[step] / 100).toFixed(2)} nat`;
      if (kl !== 0) about += `, KL ${(kl[step] / 1000).toFixed(3)} nat`;
      if (step === first) about += "; first difference";
      const span = element("span", `token e${Math.min(10, Math.round((10 * entropies[step]) / this.data.hot))}`);
      span.textContent = /^\s*$/.test(text) ? text.replaceAll("\n", "⏎\n") || "∅" : text;
      if (step === first) span.classList.add("first-difference");
      span.title = about;
      span.tabIndex = step === 0 ? 0 : -1;
      line.append(span);
    });
    const tell = (event) => { if (event.target.title) this.find(".reading").textContent = `${run.name}, ${event.target.title}`; };
    line.addEventListener("focusin", tell);
    line.addEventListener("mouseover", tell);
    line.addEventListener("click", tell);
    line.addEventListener("keydown", (event) => this.move(event));
    if (first >= 0 && first >= tokens.length) box.append(element("p", "small", "This answer ends where the other goes on."));
    if (plain !== 0) box.append(element("p", "plain", `As text: ${plain}`));
    return box;
  }

  firstDifference(at, tokens) {
    const reference = this.tokens(0, at);
    const length = Math.min(reference.length, tokens.length);
    for (let step = 0; step < length; step++) if (reference[step] !== tokens[step]) return step;
    return length;
  }

  // One stop for the tab key in each answer; arrows, Home and End go from token to token.
  move(event) {
    const goals = { ArrowRight: (t) => t.nextElementSibling, ArrowLeft: (t) => t.previousElementSibling,
      Home: (t) => t.parentElement.firstElementChild, End: (t) => t.parentElement.lastElementChild };
    const goal = goals[event.key]?.(event.target);
    if (!goal) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    goal.tabIndex = 0;
    goal.focus();
  }
}
