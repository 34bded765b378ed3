// What a call counts, for people. What has no words here keeps its name.

const WORDS = {
  bot_start_ms: "bot begun after, ms", first_word_ms: "first word after, ms", turn_ms: "a turn, ms", floor_held: "held back",
  floor_went_on: "went on after that", answer_ms: "wait for an answer, ms", answer_slowest_ms: "longest wait, ms",
  answer_turn_end_ms: "of it: turn's end, ms", answer_answer_ms: "of it: answer, ms", answer_speech_ms: "of it: speech, ms",
  generated_ms: "made, ms", sent_ms: "sent, ms", heard_ms: "heard, ms", underruns: "gaps",
};
const SERVICES = { stt: "recogniser", llm: "model", tts: "voice", speech: "speech to speech" };

// Services in one line each; the rest by their names.
export function readable(counters) {
  const left = { ...counters }, services = {};
  for (const [kind, name] of Object.entries(SERVICES)) {
    const { [`${kind}_answers`]: answers, [`${kind}_ttfb_ms`]: sum = 0, [`${kind}_slowest_ms`]: slowest = 0 } = left;
    if (!answers) continue;
    for (const what of ["answers", "ttfb_ms", "slowest_ms"]) delete left[`${kind}_${what}`];
    services[name] = `${answers} answer${answers === 1 ? "" : "s"}, after ${Math.round(sum / answers)} ms, ${slowest} ms at most`;
  }
  return { ...Object.fromEntries(Object.entries(left).map(([name, value]) => [WORDS[name] || name, value])), ...services };
}
