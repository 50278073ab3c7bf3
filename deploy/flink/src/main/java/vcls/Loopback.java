package vcls;

import java.lang.instrument.Instrumentation;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import net.bytebuddy.agent.builder.AgentBuilder;
import net.bytebuddy.asm.Advice;
import net.bytebuddy.matcher.ElementMatchers;

/**
 * Keeps the gRPC ports of Beam's Java runner to the loopback interface.
 *
 * <p>Beam asks for a port of {@code localhost} and binds that port of every address. Nobody is asked for a password
 * there. {@code java -jar} of the job server starts this agent by itself; a TaskManager does with {@code -javaagent}.
 */
public final class Loopback {
  private Loopback() {}

  /** Called with {@code -javaagent}. */
  public static void premain(String arguments, Instrumentation instrumentation) {
    new AgentBuilder.Default()
        .type(
            ElementMatchers.nameStartsWith("org.apache.beam.vendor.grpc.")
                .and(ElementMatchers.nameEndsWith(".io.grpc.netty.NettyServerBuilder")))
        .transform(
            (builder, type, loader, module, domain) ->
                builder.visit(Advice.to(OfNewServer.class).on(ElementMatchers.isConstructor())))
        .installOn(instrumentation);
  }

  /** Called by {@code java -jar}. */
  public static void agentmain(String arguments, Instrumentation instrumentation) {
    premain(arguments, instrumentation);
  }

  /** Runs at the beginning of each constructor of the class that makes servers. */
  public static final class OfNewServer {
    private OfNewServer() {}

    /** Puts the loopback address in the place of every address. */
    @Advice.OnMethodEnter
    public static void bind(@Advice.Argument(value = 0, readOnly = false) SocketAddress address) {
      if (!(address instanceof InetSocketAddress)) {
        return;
      }
      InetSocketAddress given = (InetSocketAddress) address;
      if (!given.isUnresolved() && given.getAddress().isAnyLocalAddress()) {
        address = new InetSocketAddress(InetAddress.getLoopbackAddress(), given.getPort());
      }
    }
  }
}
