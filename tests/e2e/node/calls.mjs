// What a user of OpenAI's SDK for Node does first; prints what it read as one line of JSON.

import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello, 안녕!" }];

async function calls(model) {
  const whole = await client.chat.completions.create({ model, messages });
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) chunks.push(chunk);
  return { whole, chunks };
}

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, requestID: error.requestID };
  }
  throw new Error("it was not refused");
}

const input = ["one", "two"];
const embeddings = { model: "google/text-embedding-004", input };
const read = {
  calls: [await calls("anthropic/claude-haiku-4-5"), await calls("google/gemini-3-flash")],
  vectors: await client.embeddings.create(embeddings),
  floats: await client.embeddings.create({ ...embeddings, encoding_format: "float" }),
  models: (await client.models.list()).data,
  unknown: await refusal(() => client.chat.completions.create({ model: "openai/gpt-4o", messages })),
};
process.stdout.write(JSON.stringify(read));
