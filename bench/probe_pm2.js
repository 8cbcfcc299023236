// probe.py for pm2: "ping" over its RPC socket, by pm2's own client. Arguments: its package, the socket.
const [directory, socket] = process.argv.slice(2);
const axon = require(`${directory}/modules/pm2-axon`);
const rpc = require(`${directory}/modules/pm2-axon-rpc`);

const requester = axon.socket("req");
const client = new rpc.Client(requester);
requester.connect(socket);

let longest = 0;
let questions = 0;
let over = false;

function ask() {
  const began = process.hrtime.bigint();
  client.call("ping", {}, () => {
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    if (questions === 0) console.log("ready"); // the first one is not counted
    else longest = Math.max(longest, seconds);
    questions += 1;
    if (!over) return setTimeout(ask, 5);
    console.log(JSON.stringify({ longest_s: longest, questions: questions - 1 }));
    process.exit(0);
  });
}

process.stdin.on("end", () => { over = true; });
process.stdin.resume();
ask();
